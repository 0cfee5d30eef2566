// One pane for each volume of window.voxlateVolumes; a crosshair moved in one moves in all.
(async () => {
  const panes = document.getElementById("panes");
  const place = document.getElementById("place");
  const volumes = window.voxlateVolumes;
  for (const note of window.voxlateNotes ?? []) {
    const line = document.createElement("p");
    line.textContent = note;
    panes.before(line);
  }
  if (!volumes) {
    place.textContent = "The volumes are not there: run voxlate report again.";
    return;
  }
  if (!document.createElement("canvas").getContext("webgl2")) {
    place.textContent = "This browser has no WebGL 2: the volumes cannot be shown.";
    return;
  }

  function bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  async function open(volume) {
    const figure = document.createElement("figure");
    figure.className = "pane";
    const caption = document.createElement("figcaption");
    caption.textContent = volume.name;
    const frame = document.createElement("div"); // NiiVue fits the canvas to what holds it
    const canvas = document.createElement("canvas");
    frame.append(canvas);
    figure.append(caption, frame);
    panes.append(figure);
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 0.8, 0, 0.7],
      crosshairWidth: 0.6,
      isRadiologicalConvention: false,
      loadingText: "",
      dragAndDropEnabled: false,
      logLevel: "error",
    });
    await viewer.attachToCanvas(canvas, false);
    await viewer.loadFromArrayBuffer(bytes(volume.nifti).buffer, "volume.nii.gz");
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    return viewer;
  }

  const viewers = [];
  for (const volume of volumes) viewers.push(await open(volume));
  for (const viewer of viewers) {
    viewer.broadcastTo(viewers.filter((other) => other !== viewer), { "2d": true, "3d": true });
    viewer.onLocationChange = (location) => {
      const [x, y, z] = location.mm;
      place.textContent = `right ${x.toFixed(0)}, front ${y.toFixed(0)}, top ${z.toFixed(0)} mm`;
    };
  }
  window.voxlateViewers = viewers; // for whoever scripts the page
  document.body.dataset.viewer = "ready";
})();
