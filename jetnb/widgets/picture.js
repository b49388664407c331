// A picture that can be dragged on: it sends which frame was dragged over, and from where to where. No imports, no network.

function render({ model, el }) {
  const element = (kind, css) => {
    const made = el.appendChild(document.createElement(kind));
    made.style.cssText = css;
    return made;
  };
  el.style.cssText += ";position:relative;flex:0 0 auto;align-self:flex-start;max-width:100%";
  const image = element("img", `width:${model.get("width")}px;max-width:100%;height:auto;display:block;touch-action:none`);
  image.className = "widget-image jetnb-picture";
  image.alt = model.get("description");
  image.draggable = false;
  const band = element("div", "position:absolute;display:none;pointer-events:none;border:1px solid #000;" +
    "outline:1px solid #fff;background:rgba(63,144,218,0.2);box-sizing:border-box");

  let address = "", start = null, count = 0, sent = 0;
  const frames = () => model.get("frames");
  const at = event => {
    const box = image.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const find = ([x, y]) => frames().findIndex(({ box: [l, t, r, b] }) => x >= l && x <= r && y >= t && y <= b);

  function show() {
    const old = address;
    address = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    image.onload = () => old && URL.revokeObjectURL(old);  // only now, so that nothing flickers
    image.src = address;
  }

  function send(values) {
    model.set("dragged", [...values, ++count]);
    model.save_changes();
    sent = performance.now();
  }

  function follow(event, done) {
    const { frame, from } = start, { box: [l, t, r, b], both } = frames()[frame] || start.kept;
    const [x, y] = at(event), inside = (v, low, high) => Math.min(Math.max(v, low), high);
    const [x0, x1] = [from[0], inside(x, l, r)].sort((p, q) => p - q);
    const [y0, y1] = both ? [from[1], inside(y, t, b)].sort((p, q) => p - q) : [t, b];
    const w = image.clientWidth, h = image.clientHeight;
    Object.assign(band.style, { display: done ? "none" : "block", left: `${x0 * w}px`, top: `${y0 * h}px`,
      width: `${(x1 - x0) * w}px`, height: `${(y1 - y0) * h}px` });
    const moved = (x1 - x0) * w > 3;
    if (!moved && !done) return;
    const values = moved ? [frame, (x0 - l) / (r - l), (b - y1) / (b - t), (x1 - l) / (r - l), (b - y0) / (b - t)]
      : [frame, 0, 0, 0, 0];  // a click
    if (done || model.get("live") && performance.now() - sent > 60) send(values);
  }

  image.onpointerdown = event => {
    const from = at(event), frame = find(from);
    if (frame < 0 || event.button) return;
    event.preventDefault();
    event.stopPropagation();
    image.setPointerCapture(event.pointerId);
    start = { frame, from, kept: frames()[frame] };
  };
  image.onpointermove = event => {
    image.style.cursor = start || find(at(event)) >= 0 ? "crosshair" : "default";
    if (start) follow(event, false);
  };
  image.onpointerup = event => {
    if (!start) return;
    follow(event, true);
    start = null;
  };
  image.onpointercancel = () => { start = null; band.style.display = "none"; };
  image.ondblclick = event => { event.preventDefault(); send([-1, 0, 0, 0, 0]); };

  show();
  model.on("change:value", show);
  return () => { model.off("change:value", show); URL.revokeObjectURL(address); };
}

export default { render };
