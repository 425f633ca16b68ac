"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const layer = new Uint16Array(bytes(data.layer).buffer);
  const image = bytes(data.image);
  const changed = data.examples.map((example) => bytes(example.image));
  const by = (id) => document.getElementById(id);
  const layers = by("layers"), share = by("share"), difference = by("difference");
  const scale = Math.max(1, Math.floor(256 / Math.max(data.width, data.height)));

  function magnification(other) {
    let most = 1;
    for (let i = 0; i < image.length; i++) most = Math.max(most, Math.abs(other[i] - image[i]));
    return 127 / most;
  }
  const gains = changed.map(magnification);

  function draw(number, stop, part) {
    const canvas = by("picture-" + number), other = changed[number], gain = gains[number];
    canvas.width = data.width * scale;
    canvas.height = data.height * scale;
    const pixels = new ImageData(canvas.width, canvas.height);
    for (let y = 0; y < canvas.height; y++) {
      for (let x = 0; x < canvas.width; x++) {
        const from = Math.floor(y / scale) * data.width + Math.floor(x / scale);
        const to = 4 * (y * canvas.width + x);
        const used = layer[from] <= stop ? part : 0;
        for (let c = 0; c < 3; c++) {
          const moved = used * (other[3 * from + c] - image[3 * from + c]);
          pixels.data[to + c] = difference.checked ? 128 + gain * moved : image[3 * from + c] + moved;
        }
        pixels.data[to + 3] = 255;
      }
    }
    canvas.getContext("2d", { willReadFrequently: true }).putImageData(pixels, 0, 0);
  }

  function range() {
    const all = data.examples.flatMap((e) => (e.scores || []).flat(2));
    return [Math.min(0, ...all.slice(0, 1), all.reduce((a, b) => Math.min(a, b), 0)),
            all.reduce((a, b) => Math.max(a, b), 0)];
  }
  const [least, most] = range();

  function tell(number, i, j) {
    const example = data.examples[number];
    if (!example.scores) return;
    const scores = example.scores[i][j], margin = example.margins[i][j];
    by("told-" + number).textContent = margin > 0
      ? "What is asked holds here: margin " + margin.toPrecision(3)
      : "What is asked is BROKEN here: margin " + margin.toPrecision(3);
    by("told-" + number).classList.toggle("broken", !(margin > 0));
    by("bars-" + number).querySelectorAll("li").forEach((row, n) => {
      const at = (v) => (most > least ? (v - least) / (most - least) : 0) * 100;
      const from = at(Math.min(0, scores[n])), to = at(Math.max(0, scores[n]));
      const fill = row.querySelector(".fill");
      fill.style.marginLeft = from + "%";
      fill.style.width = Math.max(0.5, to - from) + "%";
      row.querySelector(".value").textContent = scores[n].toPrecision(4);
    });
  }

  function show() {
    const i = Number(layers.value), j = Number(share.value);
    const stop = data.stops[i], part = data.shares[j];
    const last = data.stops[data.stops.length - 1];
    const which = stop === last ? "all " + (last + 1) + " layers" : "layer " + stop + " of " + last;
    const much = Math.round(100 * part) + " %";
    by("layers-told").textContent = which + ", epsilon " + data.epsilon[stop];
    by("share-told").textContent = much;
    layers.setAttribute("aria-valuetext", which);
    share.setAttribute("aria-valuetext", much);
    data.examples.forEach((_, number) => { draw(number, stop, part); tell(number, i, j); });
    document.querySelectorAll("#profile .bar").forEach((bar) =>
      bar.classList.toggle("off", Number(bar.dataset.layer) > stop));
  }

  by("needs-script").hidden = true;
  [layers, share, difference].forEach((control) => control.addEventListener("input", show));
  show();
})();
