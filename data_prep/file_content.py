"""What a file is by its first bytes, where it is not the image that its name promises."""

from __future__ import annotations

from .scan_file import ScanFile

FETCH = "download or export it again"
_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"BZh", "bzip2 data", "unpack it (bunzip2)"),
    (0, b"\xfd7zXZ\0", "xz data", "unpack it (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard data", "unpack it (unzstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (128, b"DICM", "a DICOM file", "convert the series with dcm2niix"),
    (0, b"NRRD000", "an NRRD image", "convert it to .nii.gz"),
    (0, b"ObjectType = Image", "a MetaImage file", "convert it to .nii.gz"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "convert it to .nii.gz"),
    (0, b"\0\0\0\1", "a FreeSurfer .mgh image", "convert it with mri_convert"),
    (0, b"\x89PNG", "a PNG picture", "give the NIfTI file"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "give the NIfTI file"),
    (0, b"%PDF", "a PDF document", "give the NIfTI file"),
)


def is_nifti(head: bytes) -> bool:
    """Tell whether the signature of NIfTI-1 or NIfTI-2 is where it belongs."""
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def refuse_other_content(head: bytes, file: ScanFile) -> None:
    """Refuse what the first bytes show to be something else, without quoting any of it.

    Args:
        head: The first 512 bytes, or all there are.
        file: Whose they are.

    Raises:
        ScanError: It is a web page, a text, a pointer, an archive, zeros or another format.
    """
    if is_nifti(head):
        return
    text = head[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs") or b"/annex/objects/" in head:
        raise file.refuse(
            "E_POINTER", "a git-lfs or DataLad pointer, not the image", "fetch the file first"
        )
    if text.startswith(b"<"):
        raise file.refuse("E_NOT_NIFTI", "looks like a web page: a failed download", FETCH)
    for offset, signature, what, todo in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            raise file.refuse("E_NOT_NIFTI", f"{what}, not NIfTI", todo)
    if text and all(byte >= 32 or byte in b"\t\n\r\f" for byte in text):
        raise file.refuse("E_NOT_NIFTI", "a text file, not an image", FETCH)
    if len(head) >= 348 and not head.strip(b"\0"):
        raise file.refuse("E_NOT_NIFTI", "filled with zeros: an interrupted copy", FETCH)
