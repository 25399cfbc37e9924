"use strict";
// A reading session in one page: scans are drawn from the page itself, answers stay in the browser until they are saved.
// There is no truth in here. Voxels lie along R, A and S; every plane is shown as radiologists do.
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const session = JSON.parse($("#session").textContent);
  const cases = session.cases.length;
  const SCREENS = ["start", "read", "end", "failure"];
  const ANSWERS = { r: "real", s: "synthetic", u: "unsure" };
  const BOUNCE_MS = 350; // a second press of the same key is not an answer to a scan that nobody has seen
  const PLANES = [
    { name: "Axial", across: 2, horizontal: 0, vertical: 1, letters: "RLAP" },
    { name: "Coronal", across: 1, horizontal: 0, vertical: 2, letters: "RLSI" },
    { name: "Sagittal", across: 0, horizontal: 1, vertical: 2, letters: "APSI" },
  ];
  const CT_WINDOWS = { 2: [-160, 240], 3: [-15, 135], 4: [-1350, 150], 5: [-500, 1300] };
  const KEYS = [
    ["R S U", "real, synthetic, unsure"],
    ["Z", "take the last answer back"],
    ["↑ ↓", "next and previous slice, as the wheel does; Page up and Page down: ten slices"],
    ["V", "another plane; or click a small view"],
    ["Shift + arrows", "window: up and down brighter and darker, left and right more and less contrast; or drag"],
    [session.modality === "CT" ? "1 2 3 4 5" : "1", session.modality === "CT"
      ? "window: as at first, soft tissue, liver, lung, bone" : "window as at first"],
    ["+ − 0", "zoom in, out, as at first; or Ctrl + wheel"],
    ["Alt + arrows", "move the picture; or drag with Shift"],
    ["click", "show this point in the other planes"],
    ["I", "smooth pixels on and off"],
    ["H", "this list"],
  ];

  // --- Answers: case number -> { answer, ms }; kept in the browser where it allows

  let reader = "", answers = new Map(), spent = new Map(), current = 0, keeps = true, unsaved = false;

  const place = () => `diffugts-reading:${session.session}:${reader}`;

  function stored(name) {
    try {
      const record = JSON.parse(localStorage.getItem(`diffugts-reading:${session.session}:${name}`) || "null");
      if (!record || record.session !== session.session || !Array.isArray(record.answers)) return [];
      const isFit = (row) => Number.isInteger(row.case) && row.case >= 1 && row.case <= cases &&
        Object.values(ANSWERS).includes(row.answer) && Number.isFinite(row.seconds) && row.seconds >= 0;
      return record.answers.filter(isFit);
    } catch { return []; }
  }

  function keep() {
    try { localStorage.setItem(place(), JSON.stringify(record())); keeps = true; } catch { keeps = false; }
    $("#note").textContent = keeps ? "" : "This browser keeps nothing: save your answers before you close the page.";
  }

  function record() {
    const rows = [...answers].sort((a, b) => a[0] - b[0])
      .map(([number, answer]) => ({ case: number, answer, seconds: Math.round((spent.get(number) || 0) / 100) / 10 }));
    return { format: "diffugts-reading-answers", version: 1, session: session.session, reader, answers: rows };
  }

  function asCsv() {
    const quoted = (text) => (/[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const { answers: rows } = record();
    const lines = rows.map((row) => [session.session, quoted(reader), row.case, row.answer, row.seconds].join(","));
    return ["session,reader,case,answer,seconds", ...lines, ""].join("\r\n");
  }

  function save(kind) {
    const text = kind === "csv" ? asCsv() : `${JSON.stringify(record(), null, 1)}\n`;
    const link = document.createElement("a");
    const name = reader.replace(/[^\p{L}\p{N}]+/gu, "_") || "reader";
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
    link.download = `answers_${name}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
    $("#saved").textContent = $("#note").textContent = `Saved as ${link.download}.`;
  }

  // --- Time: only while the scan can be seen

  let since = null, shownAt = 0;
  const stopClock = () => {
    if (since !== null && current) spent.set(current, (spent.get(current) || 0) + performance.now() - since);
    since = null;
  };
  const startClock = () => { if (since === null && !$("#read").hidden && !document.hidden && current && scan) since = performance.now(); };
  document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : startClock()));

  // --- Scans

  const unpacked = new Map();

  function unpack(number) {
    if (!unpacked.has(number)) {
      for (const old of unpacked.keys()) if (Math.abs(old - number) > 1) unpacked.delete(old);
      unpacked.set(number, (async () => {
        const packed = atob($(`#scan-${number}`).textContent);
        const bytes = new Uint8Array(packed.length);
        for (let n = 0; n < packed.length; n++) bytes[n] = packed.charCodeAt(n);
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
        const planes = new Uint8Array(await new Response(stream).arrayBuffer());
        const { shape, spacing_mm: spacing } = session.grids[number - 1];
        const count = shape[0] * shape[1] * shape[2];
        const voxels = new Uint16Array(count); // intensity + 32768
        for (let n = 0; n < count; n++) voxels[n] = planes[n] | (planes[count + n] << 8);
        return { shape, spacing, voxels, start: startWindow(voxels) };
      })());
    }
    return unpacked.get(number);
  }

  function startWindow(voxels) {
    if (session.window) return session.window;
    const step = Math.max(1, Math.floor(voxels.length / 50000));
    const drawn = voxels.filter((_, index) => index % step === 0).sort();
    const at = (share) => drawn[Math.min(drawn.length - 1, Math.floor(share * drawn.length))] - 32768;
    return [at(0.01), Math.max(at(0.01) + 1, at(0.995))];
  }

  // --- Pictures

  let scan = null, point = [0, 0, 0], order = [0, 1, 2], window_ = [0, 1], zoom = 1, shift = [0, 0], smooth = true;
  const figures = [...document.querySelectorAll(".view")];
  const shades = new Uint8ClampedArray(65536);
  const sheet = document.createElement("canvas");

  function shade() {
    const [low, high] = window_, scale = 255 / Math.max(1, high - low);
    for (let n = 0; n < 65536; n++) shades[n] = (n - 32768 - low) * scale;
  }

  function cut(plane) {
    const { shape, voxels } = scan;
    const strides = [1, shape[0], shape[0] * shape[1]];
    const wide = shape[plane.horizontal], high = shape[plane.vertical];
    const pixels = new Uint32Array(wide * high);
    const first = point[plane.across] * strides[plane.across];
    for (let row = 0; row < high; row++) {
      // The picture's left is the patient's right (or front), its top is front (or head): both axes run backwards.
      let at = first + (high - 1 - row) * strides[plane.vertical] + (wide - 1) * strides[plane.horizontal];
      for (let column = 0; column < wide; column++, at -= strides[plane.horizontal]) {
        const gray = shades[voxels[at]];
        pixels[row * wide + column] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
      }
    }
    sheet.width = wide; sheet.height = high;
    sheet.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), wide, high), 0, 0);
  }

  // Where the cut lies on its canvas: left, top, and the size of a voxel, in pixels of the canvas.
  function layout(plane, canvas, isLarge) {
    const wide = scan.shape[plane.horizontal] * scan.spacing[plane.horizontal];
    const high = scan.shape[plane.vertical] * scan.spacing[plane.vertical];
    const scale = Math.min(canvas.width / wide, canvas.height / high) * (isLarge ? zoom : 1);
    const moved = isLarge ? shift : [0, 0];
    return {
      left: (canvas.width - wide * scale) / 2 + moved[0] * scale, top: (canvas.height - high * scale) / 2 + moved[1] * scale,
      right: scale * scan.spacing[plane.horizontal], down: scale * scan.spacing[plane.vertical], scale,
    };
  }

  function drawView(index) {
    const plane = PLANES[order[index]], canvas = $("canvas", figures[index]), isLarge = index === 0;
    const ratio = globalThis.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    cut(plane);
    const at = layout(plane, canvas, isLarge);
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, at.left, at.top, sheet.width * at.right, sheet.height * at.down);
    if (!isLarge) { // where the other planes run
      const x = at.left + (sheet.width - point[plane.horizontal] - 0.5) * at.right;
      const y = at.top + (sheet.height - point[plane.vertical] - 0.5) * at.down;
      context.strokeStyle = "#7fb2e566";
      context.lineWidth = ratio;
      context.beginPath();
      context.moveTo(x, 0); context.lineTo(x, canvas.height); context.moveTo(0, y); context.lineTo(canvas.width, y);
      context.stroke();
      $(".corner", figures[index]).textContent = plane.name;
    }
  }

  let isAsked = false;
  function draw() {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      if (!scan || $("#read").hidden) return;
      figures.forEach((_, index) => drawView(index));
      const plane = PLANES[order[0]], [low, high] = window_;
      $("#plane").textContent = plane.name;
      $("#contrast").textContent = `W ${Math.round(high - low)}  L ${Math.round((high + low) / 2)} ${session.unit}`;
      $("#position").textContent = `Slice ${point[plane.across] + 1} of ${scan.shape[plane.across]}, zoom ${Math.round(100 * zoom)} %`;
      ["left", "right", "top", "bottom"].forEach((side, n) => { $(`.letter.${side}`).textContent = plane.letters[n]; });
    });
  }

  function scroll(slices) {
    const { across } = PLANES[order[0]];
    point[across] = Math.min(scan.shape[across] - 1, Math.max(0, point[across] + slices));
    draw();
  }
  function setWindow(low, high) {
    const width = Math.min(20000, Math.max(2, high - low)), level = Math.min(32000, Math.max(-32000, (low + high) / 2));
    window_ = [level - width / 2, level + width / 2];
    shade(); draw();
  }
  function adjustWindow(brighter, wider) { // shares of the window's width
    const width = window_[1] - window_[0], level = (window_[0] + window_[1]) / 2 - brighter * width;
    const next = width * Math.exp(wider);
    setWindow(level - next / 2, level + next / 2);
  }
  function setZoom(factor) { zoom = Math.min(20, Math.max(0.5, zoom * factor)); draw(); }
  function movePicture(x, y) { shift = [shift[0] + x, shift[1] + y]; draw(); }
  function resetView() { zoom = 1; shift = [0, 0]; setWindow(...scan.start); }
  function bringForward(index) {
    const chosen = order[index];
    order = [chosen, ...[0, 1, 2].filter((plane) => plane !== chosen)];
    shift = [0, 0];
    draw();
  }

  // --- Screens

  function show(screen) {
    for (const each of SCREENS) $(`#${each}`).hidden = each !== screen;
  }

  async function open(number) {
    stopClock();
    current = number; scan = null;
    show("read");
    $("#count").textContent = `Scan ${number} of ${cases}`;
    $("#progress").max = cases;
    $("#progress").value = answers.size;
    $("#undo").disabled = answers.size === 0;
    let next;
    try { next = await unpack(number); } catch { fail("The scan cannot be unpacked: the file is damaged. Copy the page again."); return; }
    if (current !== number) return;
    scan = next;
    point = scan.shape.map((side) => Math.floor(side / 2));
    order = [0, 1, 2];
    resetView();
    $("canvas", figures[0]).focus({ preventScroll: true });
    shownAt = performance.now();
    startClock();
    if (number < cases) unpack(number + 1).catch(() => {});
  }

  function goOn() {
    let next = 1;
    while (next <= cases && answers.has(next)) next++;
    if (next <= cases) { open(next); return; }
    current = 0; scan = null;
    show("end");
    const said = Object.values(ANSWERS).map((word) => `${[...answers.values()].filter((a) => a === word).length} ${word}`);
    $("#summary").textContent = `All ${cases} scans are answered: ${said.join(", ")}. Now save your answers.`;
    $("#save-json").focus();
  }

  function answer(word) {
    if (!scan || performance.now() - shownAt < BOUNCE_MS) return;
    stopClock();
    answers.delete(current); // the last one is what undo takes back
    answers.set(current, word);
    unsaved = true;
    keep();
    goOn();
  }

  function undo() {
    const last = [...answers.keys()].pop();
    if (last === undefined) return;
    stopClock();
    const word = answers.get(last);
    answers.delete(last);
    unsaved = true;
    keep();
    if (keeps) $("#note").textContent = `Taken back: scan ${last} was “${word}”.`;
    open(last);
  }

  function fail(words) { stopClock(); $("#failure p").textContent = words; show("failure"); }

  // --- Hands

  const arrows = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

  function readKey(event) {
    const key = event.key.toLowerCase();
    if (event.key in arrows) {
      const [x, y] = arrows[event.key];
      if (event.shiftKey) adjustWindow(0.05 * y, -0.05 * -x);
      else if (event.altKey) movePicture(x * 5, -y * 5);
      else if (y) scroll(y);
      else return false;
    } else if (key === "pageup") scroll(10);
    else if (key === "pagedown") scroll(-10);
    else if (key === "v") bringForward(1);
    else if (key === "+" || key === "=") setZoom(1.2);
    else if (key === "-") setZoom(1 / 1.2);
    else if (key === "0") resetView();
    else if (key === "1") setWindow(...scan.start);
    else if (session.modality === "CT" && key in CT_WINDOWS) setWindow(...CT_WINDOWS[key]);
    else if (key === "i") { smooth = !smooth; draw(); }
    else return false;
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.target.matches("input") || $("#keys").open) return;
    const key = event.key.toLowerCase();
    const isReading = !$("#read").hidden, isDone = !$("#end").hidden;
    let isTaken = true;
    if (isReading && key in ANSWERS && !event.altKey) { if (!event.repeat) answer(ANSWERS[key]); }
    else if ((isReading || isDone) && (key === "z" || key === "backspace")) { if (!event.repeat) undo(); }
    else if (isReading && (key === "h" || key === "?")) { stopClock(); $("#keys").showModal(); }
    else if (isReading && scan) isTaken = readKey(event);
    else if (isDone && key === "j") save("json");
    else if (isDone && key === "c") save("csv");
    else isTaken = false;
    if (isTaken) event.preventDefault();
  });
  $("#keys").addEventListener("close", startClock);

  let wheel = 0;
  const large = $("canvas", figures[0]);
  figures.forEach((figure) => figure.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (!scan) return;
    if (event.ctrlKey) { setZoom(Math.exp(-event.deltaY / 400)); return; }
    wheel += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY; // a notch is about 100 pixels; touch pads send less
    const slices = Math.trunc(wheel);
    if (slices) { wheel -= slices; scroll(-Math.sign(slices) * Math.min(5, Math.ceil(Math.abs(slices) / 2))); }
  }, { passive: false }));

  let drag = null;
  large.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, isMove: event.shiftKey || event.button === 1, isZoom: event.button === 2, path: 0 };
    large.setPointerCapture(event.pointerId);
  });
  large.addEventListener("pointermove", (event) => {
    if (!drag || !scan) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    Object.assign(drag, { x: event.clientX, y: event.clientY, path: drag.path + Math.abs(x) + Math.abs(y) });
    if (drag.path < 4) return;
    if (drag.isMove) { const { scale } = layout(PLANES[order[0]], large, true), ratio = globalThis.devicePixelRatio || 1; movePicture(x * ratio / scale, y * ratio / scale); }
    else if (drag.isZoom) setZoom(Math.exp(-y / 200));
    else adjustWindow(-y / 400, x / 300);
  });
  large.addEventListener("pointerup", (event) => {
    if (drag && drag.path < 4 && event.button === 0 && scan) look(event);
    drag = null;
  });
  large.addEventListener("contextmenu", (event) => event.preventDefault());
  large.addEventListener("dblclick", () => scan && resetView());

  function look(event) {
    const plane = PLANES[order[0]], at = layout(plane, large, true), ratio = globalThis.devicePixelRatio || 1;
    const index = (axis, pixels, size) => scan.shape[axis] - 1 - Math.floor(pixels / size);
    const box = large.getBoundingClientRect();
    const wanted = [
      [plane.horizontal, index(plane.horizontal, (event.clientX - box.left) * ratio - at.left, at.right)],
      [plane.vertical, index(plane.vertical, (event.clientY - box.top) * ratio - at.top, at.down)],
    ];
    if (wanted.some(([axis, n]) => n < 0 || n >= scan.shape[axis])) return;
    for (const [axis, n] of wanted) point[axis] = n;
    draw();
  }

  figures.slice(1).forEach((figure, n) => $("canvas", figure).addEventListener("click", () => scan && bringForward(n + 1)));
  for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
  $("#undo").addEventListener("click", undo);
  $("#reopen").addEventListener("click", undo);
  $("#save").addEventListener("click", () => save("json"));
  $("#save-json").addEventListener("click", () => save("json"));
  $("#save-csv").addEventListener("click", () => save("csv"));
  $("#help").addEventListener("click", () => { stopClock(); $("#keys").showModal(); });
  new ResizeObserver(draw).observe($("#views"));
  globalThis.addEventListener("beforeunload", (event) => {
    if (unsaved && (!keeps || answers.size === cases)) event.preventDefault();
  });

  // --- Begin

  const cleaned = () => $("#reader").value.trim().replace(/\s+/g, " ");
  $("#reader").addEventListener("input", () => {
    const { length } = stored(cleaned());
    $("#resume").textContent = length ? `${length} of ${cases} scans are answered already; you go on from there.` : "";
  });
  $("#begin").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!cleaned()) return;
    reader = cleaned();
    const rows = stored(reader);
    answers = new Map(rows.map((row) => [row.case, row.answer]));
    spent = new Map(rows.map((row) => [row.case, row.seconds * 1000]));
    $("#who").textContent = reader;
    keep();
    goOn();
  });
  for (const holder of document.querySelectorAll(".title")) holder.textContent = session.title;
  for (const list of document.querySelectorAll(".keys")) {
    for (const [keys, words] of KEYS) {
      const left = document.createElement("span"), right = document.createElement("span");
      for (const key of keys.includes("+ a") ? [keys] : keys.split(" ")) left.append(Object.assign(document.createElement("kbd"), { textContent: key }));
      right.textContent = words;
      list.append(left, right);
    }
  }
  if (typeof DecompressionStream === "undefined") fail("The browser is too old. Any of 2023 or later will do: Chrome, Edge, Firefox, Safari.");
  else { show("start"); $("#reader").focus(); }
})();
