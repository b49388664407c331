// A map of jets on a plain canvas: lasso, hover, keyboard, and a legend that hides classes. No imports, no network.
// Points are in random order, so that no class hides another. 50,000 take about 0.1 s to paint.

const unpack = view => new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
const element = (kind, parent, css = "") => {
  const made = parent.appendChild(document.createElement(kind));
  made.style.cssText = css;
  return made;
};

function shuffled(n) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let state = 1;
  for (let i = n - 1; i > 0; i--) {
    state = (1664525 * state + 1013904223) >>> 0;
    const j = Math.floor(state / 4294967296 * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function render({ model, el }) {
  const W = model.get("width"), H = model.get("height"), EDGE = { left: 26, right: 4, top: 22, bottom: 24 };
  const scale = window.devicePixelRatio || 1, hidden = new Set();
  el.setAttribute("data-lm-suppress-shortcuts", "true");  // or JupyterLab takes arrows and Enter for its cells
  el.style.cssText += ";flex:0 0 auto;max-width:100%";

  const canvas = element("canvas", el, `width:${W}px;max-width:100%;aspect-ratio:${W}/${H};touch-action:none;` +
    "outline-offset:-2px;cursor:crosshair;display:block");
  const base = document.createElement("canvas");
  base.width = canvas.width = W * scale;
  base.height = canvas.height = H * scale;
  canvas.tabIndex = 0;
  canvas.className = "jetnb-map";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", model.get("description"));
  const front = canvas.getContext("2d"), back = base.getContext("2d");
  front.scale(scale, scale);
  back.scale(scale, scale);
  const legend = element("div", el, `width:${W}px;max-width:100%;display:flex;flex-wrap:wrap;gap:4px;margin:4px 0`);
  const bar = element("div", el, `width:${W}px;max-width:100%;font-size:13px;box-sizing:border-box;padding-left:26px`);
  const status = element("div", el, `width:${W}px;max-width:100%;font-size:13px;line-height:1.4;min-height:2.8em`);
  status.setAttribute("role", "status");  // read out when it changes
  status.className = "jetnb-status";

  let x, y, n = 0, order, classes, colours, selected = null, path = null, cursor = null, radius = 24;

  function load() {
    const xy = new Float32Array(unpack(model.get("xy")).buffer);
    n = xy.length / 2;
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < 2 * n; i++) {
      low[i % 2] = Math.min(low[i % 2], xy[i]);
      high[i % 2] = Math.max(high[i % 2], xy[i]);
    }
    const place = (value, k, from, to) => from + (0.02 + 0.96 * (value - low[k]) / (high[k] - low[k] || 1)) * (to - from);
    x = Float32Array.from({ length: n }, (_, i) => place(xy[2 * i], 0, EDGE.left, W - EDGE.right));
    y = Float32Array.from({ length: n }, (_, i) => place(xy[2 * i + 1], 1, H - EDGE.bottom, EDGE.top));
    classes = unpack(model.get("classes"));
    order = shuffled(n);
  }

  const shown = i => !hidden.has(classes[i]);

  function paint() {
    const palette = model.get("palette"), size = n > 20000 ? 2 : n > 5000 ? 3 : 4;
    back.fillStyle = "#fff";
    back.fillRect(0, 0, W, H);
    for (const chosen of selected ? [false, true] : [true]) {  // what is selected comes last, on top
      back.globalAlpha = selected ? (chosen ? 0.95 : 0.12) : 0.7;
      for (const i of order) {
        if (!shown(i) || (selected && Boolean(selected[i]) !== chosen)) continue;
        back.fillStyle = palette[colours[i]];
        back.fillRect(x[i] - size / 2, y[i] - size / 2, size, size);
      }
    }
    back.globalAlpha = 1;
    back.lineWidth = 1;
    back.strokeStyle = back.fillStyle = "#222";
    back.strokeRect(EDGE.left + 0.5, EDGE.top + 0.5, W - EDGE.left - EDGE.right - 1, H - EDGE.top - EDGE.bottom - 1);
    back.font = "italic 13px sans-serif";
    back.fillText(model.get("source"), EDGE.left, 15);
    back.font = "13px sans-serif";
    back.textAlign = "center";
    back.fillText(model.get("axes")[0], (W + EDGE.left) / 2, H - 7);
    back.save();
    back.translate(15, (H + EDGE.top - EDGE.bottom) / 2);
    back.rotate(-Math.PI / 2);
    back.fillText(model.get("axes")[1], 0, 0);
    back.restore();
    back.textAlign = "left";
    draw();
  }

  function outline(trace) {  // dark on light, so that it is seen on every colour
    for (const [style, width] of [["#fff", 4], ["#000", 1.6]]) {
      front.strokeStyle = style;
      front.lineWidth = width;
      front.beginPath();
      trace();
      front.stroke();
    }
  }

  function draw() {
    front.drawImage(base, 0, 0, W, H);
    if (path) outline(() => path.forEach(([a, b], k) => k ? front.lineTo(a, b) : front.moveTo(a, b)));
    if (cursor) {
      outline(() => front.arc(...cursor, radius, 0, 7));
      outline(() => { front.moveTo(cursor[0] - 5, cursor[1]); front.lineTo(cursor[0] + 5, cursor[1]);
        front.moveTo(cursor[0], cursor[1] - 5); front.lineTo(cursor[0], cursor[1] + 5); });
    }
    const at = model.get("hover");
    if (at >= 0 && at < n) outline(() => front.arc(x[at], y[at], 5, 0, 7));
  }

  function readSelection() {
    const bytes = unpack(model.get("selection"));
    selected = bytes.length ? new Uint8Array(n) : null;
    for (const i of new Int32Array(bytes.buffer)) selected[i] = 1;
    paint();
  }

  function readColours() {
    colours = unpack(model.get("colours"));
    const { label, low, high } = model.get("bar");
    bar.innerHTML = label ? `<div style="height:12px;background:linear-gradient(90deg,${model.get("palette")})"></div>
      <div style="display:flex;justify-content:space-between"><span>${low}</span><span>${label}</span>
      <span>${high}</span></div>` : "";
    legend.querySelectorAll("i").forEach((key, k) => {
      key.style.background = label ? "transparent" : model.get("class_colours")[k];
    });
    paint();
  }

  function choose(test) {
    const inside = [];
    for (let i = 0; i < n; i++) if (shown(i) && test(x[i], y[i])) inside.push(i);
    model.set("selection", new DataView(Int32Array.from(inside).buffer));
    model.save_changes();
  }

  function within(polygon) {  // crossings of a ray to the right: odd inside
    return (a, b) => {
      let inside = false;
      for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
        const [xi, yi] = polygon[i], [xj, yj] = polygon[j];
        if ((yi > b) !== (yj > b) && a < (xj - xi) * (b - yi) / (yj - yi) + xi) inside = !inside;
      }
      return inside;
    };
  }

  let waiting = null;
  function hover([a, b], reach) {
    let nearest = -1, best = reach * reach;
    for (let i = 0; i < n; i++) {
      const distance = (x[i] - a) ** 2 + (y[i] - b) ** 2;
      if (distance < best && shown(i)) [nearest, best] = [i, distance];
    }
    if (nearest < 0 || nearest === model.get("hover")) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => { model.set("hover", nearest); model.save_changes(); }, 50);
  }

  const at = event => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * W / box.width, (event.clientY - box.top) * H / box.height];
  };
  canvas.onpointerdown = event => {
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    [path, cursor] = [[at(event)], null];
    event.stopPropagation();
  };
  canvas.onpointermove = event => {
    if (!path) return hover(at(event), 10);
    path.push(at(event));
    draw();
  };
  canvas.onpointerup = () => {
    if (!path) return;
    const drawn = path;
    path = null;
    choose(drawn.length > 3 ? within(drawn) : () => false);
  };
  canvas.onpointercancel = () => { path = null; draw(); };
  canvas.onkeydown = event => {
    const step = event.shiftKey ? 2 : 12, moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = event.key;
    if (!(key in moves || ["+", "=", "-", "Enter", "Escape"].includes(key))) return;
    event.preventDefault();
    event.stopPropagation();
    cursor = cursor || [(W + EDGE.left) / 2, (H + EDGE.top - EDGE.bottom) / 2];
    if (key in moves) {
      const [a, b] = moves[key].map((sign, k) => cursor[k] + sign * step);
      cursor = [Math.min(Math.max(a, EDGE.left), W - EDGE.right), Math.min(Math.max(b, EDGE.top), H - EDGE.bottom)];
      hover(cursor, radius);
    } else if (key === "Enter") {
      const [a, b] = cursor;
      choose((c, d) => (c - a) ** 2 + (d - b) ** 2 < radius * radius);
    } else if (key === "Escape") {
      cursor = null;
      choose(() => false);
    } else radius = Math.min(Math.max(radius + (key === "-" ? -6 : 6), 6), H / 2);
    draw();
  };
  canvas.onblur = () => { cursor = null; draw(); };

  model.get("labels").forEach((label, k) => {
    const button = element("button", legend, "font-size:13px;line-height:1.3;padding:1px 7px;border:1px solid #888;" +
      "border-radius:4px;background:transparent;color:inherit;cursor:pointer");
    const colour = model.get("class_colours")[k];
    button.innerHTML = `<i style="display:inline-block;width:11px;height:11px;margin-right:5px;border:1px solid ${colour};` +
      `background:${colour};vertical-align:-1px"></i>${label}`;
    button.type = "button";
    button.className = "jetnb-class";
    button.title = `hide or show ${model.get("names")[k]}`;
    button.setAttribute("aria-label", model.get("names")[k]);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => {
      hidden.has(k) ? hidden.delete(k) : hidden.add(k);
      button.setAttribute("aria-pressed", String(!hidden.has(k)));
      button.style.opacity = hidden.has(k) ? 0.55 : 1;
      button.style.textDecoration = hidden.has(k) ? "line-through" : "none";
      paint();
    };
  });

  const say = () => { status.textContent = model.get("status"); };
  const listeners = { "change:selection": readSelection, "change:colours": readColours, "change:status": say,
    "change:hover": draw };
  load();
  readColours();
  readSelection();
  say();
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  return () => { for (const [event, listener] of Object.entries(listeners)) model.off(event, listener); };
}

export default { render };
