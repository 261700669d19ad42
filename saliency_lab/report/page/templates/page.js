"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
  const colours = Array.from({ length: 256 }, (_, i) =>
    [0, 2, 4].map((at) => parseInt(data.colours.slice(6 * i + at, 6 * i + at + 2), 16)));

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in made && name !== "role" && !name.startsWith("aria")) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  // ---- methods shown: one choice for curves, tables and examples
  const boxes = all("input[data-method]");
  const order = [...new Set(boxes.map((box) => box.dataset.method))];
  const names = new Map();
  const swatches = new Map();
  for (const box of boxes) {
    names.set(box.dataset.method, box.dataset.label);
    swatches.set(box.dataset.method, box.parentElement.querySelector("svg"));
  }
  const LEGIBLE = 8;
  let shown = new Set(order.slice(0, LEGIBLE));

  const applyMethods = () => {
    for (const box of boxes) box.checked = shown.has(box.dataset.method);
    for (const marked of all(".curve[data-key], .readout tr[data-key]")) {
      if (marked.closest("[data-panel]")) marked.style.display = shown.has(marked.dataset.key) ? "" : "none";
    }
    refreshExamples();
  };
  for (const box of boxes) {
    box.addEventListener("change", () => {
      if (box.checked) shown.add(box.dataset.method); else shown.delete(box.dataset.method);
      applyMethods();
    });
  }
  for (const button of all("button[data-choose]")) {
    button.addEventListener("click", () => {
      const wanted = {
        all: () => true,
        none: () => false,
        gradient: (box) => box.dataset.method.startsWith("gradient/"),
        view: (box) => box.dataset.view === button.dataset.view || "control" in box.dataset,
      };
      shown = new Set(boxes.filter(wanted[button.dataset.choose]).map((box) => box.dataset.method));
      applyMethods();
    });
  }

  // ---- reading values off the curves
  let over = document.querySelector("[data-over][aria-pressed=true]")?.dataset.over ?? "fraction";
  const rereads = [];
  const between = (points, places, share) => {
    const after = places.findIndex((place) => place >= share);
    if (after < 0) return null; // this map deletes no more
    if (after === 0 || places[after] === share) return points[after];
    const part = (share - places[after - 1]) / (places[after] - places[after - 1]);
    return points[after].map((value, at) => points[after - 1][at] + part * (value - points[after - 1][at]));
  };
  for (const button of all("button[data-over]")) {
    button.addEventListener("click", () => {
      over = button.dataset.over;
      for (const each of all("button[data-over]")) each.setAttribute("aria-pressed", String(each.dataset.over === over));
      for (const each of all("[data-axis]")) each.hidden = each.dataset.axis !== over;
      for (const reread of rereads) reread();
    });
  }
  for (const panel of all("[data-panel]")) {
    const { fractions, values, inserts } = data.panels[panel.dataset.panel] ?? {};
    if (!fractions) continue; // an evaluator without curves
    const slider = panel.querySelector("input[data-read]");
    const charts = all(".chart", panel);
    const read = (step) => {
      slider.value = step;
      slider.setAttribute("aria-valuetext", percent(fractions[step]));
      const byShare = over === "deleted_share" && inserts;
      panel.querySelector("[data-read-at]").textContent = `${percent(fractions[step])}${byShare ? " of the pixels" : ""}`;
      for (const chart of charts) {
        const { left, right, xmax } = chart.dataset;
        const reached = fractions[step] <= +xmax;
        const x = reached ? +left + (fractions[step] / xmax) * (right - left) : -9;
        const cross = chart.querySelector(".cross");
        cross.setAttribute("x1", x);
        cross.setAttribute("x2", x);
      }
      for (const row of all(".readout tbody tr", panel)) {
        all("[data-value]", row).forEach((cell, condition) => {
          const curve = values[row.dataset.key][condition];
          const points = byShare ? curve?.filter(Boolean) : curve; // a fraction may be of no image
          const places = byShare && points?.map((point) => (inserts[condition] ? 1 - point[3] : point[3]));
          const found = byShare ? points && between(points, places, fractions[step]) : points?.[step];
          cell.textContent = found ? percent(found[0], 1) : "–";
          if (found) {
            cell.append(element("span", { className: "ci" }, `[${(100 * found[1]).toFixed(0)}, ${(100 * found[2]).toFixed(0)}]`));
          }
          cell.title = found ? `${percent(found[3], 1)} of the pixels replaced` : byShare && points ? `its curve ends at ${percent(places.at(-1), 1)}` : "";
        });
      }
    };
    slider.addEventListener("input", () => read(+slider.value));
    for (const chart of charts) {
      chart.addEventListener("pointermove", (event) => {
        const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
        const { left, right, xmax } = chart.dataset;
        const share = ((place.x - left) / (right - left)) * xmax;
        const gaps = fractions.map((fraction) => Math.abs(fraction - share));
        read(gaps.indexOf(Math.min(...gaps)));
      });
    }
    for (const row of all("tr[data-key]", panel)) {
      const focus = (on) => charts.forEach((chart) => {
        chart.classList.toggle("focused", on);
        for (const curve of all(".curve", chart)) curve.classList.toggle("focus", on && curve.dataset.key === row.dataset.key);
      });
      row.addEventListener("pointerenter", () => focus(true));
      row.addEventListener("pointerleave", () => focus(false));
    }
    rereads.push(() => read(+slider.value));
    read(+slider.value);
  }

  // ---- examples: decoding
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const loaded = new Map();
  const load = (set, item) => {
    if (!loaded.has(item)) loaded.set(item, decode(set, item));
    return loaded.get(item);
  };
  const decode = async (set, item) => {
    const stream = new Blob([bytes(item.levels)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const levels = new Uint8Array(await new Response(stream).arrayBuffer());
    const pictures = {};
    for (const [name, value] of Object.entries(item.fills)) {
      if (typeof value === "string") pictures[name] = await picture(value);
    }
    return { levels, pictures, tones: bytes(item.tones) };
  };
  const picture = (address) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = address;
  });
  const traceOf = (set, item) => {
    if (!item.trace) {
      item.trace = { predictions: new Uint16Array(bytes(item.predictions).buffer), probabilities: bytes(item.probabilities) };
    }
    return item.trace;
  };
  const NOT_MEASURED = 65535;
  const stepOf = (set, item, key, condition, step) => {
    const place = (set.curves.indexOf(key) * set.conditions.length + condition) * set.fractions.length + step;
    const { predictions, probabilities } = traceOf(set, item);
    if (predictions[place] === NOT_MEASURED) return null;
    return { prediction: predictions[place], probability: probabilities[place] / 255, keeps: predictions[place] === item.prediction };
  };
  const areasOf = (set, item, key, condition) => {
    let area = 0, soft = 0;
    for (let step = 1; step < set.fractions.length; step += 1) {
      const [before, after] = [stepOf(set, item, key, condition, step - 1), stepOf(set, item, key, condition, step)];
      if (!before || !after) return null;
      const width = (set.fractions[step] - set.fractions[step - 1]) / 2;
      area += width * (before.keeps + after.keeps);
      soft += width * (before.probability + after.probability);
    }
    return { area, soft };
  };
  const className = (set, index) => set.classes[index] ?? `class ${index}`;
  const fractionName = (fraction) => percent(fraction, Number.isInteger(Math.round(fraction * 1e4) / 100) ? 0 : 1);

  // ---- examples: drawing
  const layer = (width, height) => {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    return canvas;
  };
  const levelLayer = (set, levels, at, colourOf) => {
    const canvas = layer(set.width, set.height);
    const size = set.width * set.height;
    const pixels = new ImageData(set.width, set.height);
    for (let place = 0; place < size; place += 1) pixels.data.set(colourOf(levels[at * size + place]), 4 * place);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  };
  const drawMap = (canvas, set, ready, key) => {
    const at = set.curves.indexOf(key);
    const count = set.fractions.length + 1;
    const laid = byId("over-image").checked;
    const drawn = levelLayer(set, ready.levels, at, (level) => {
      const tone = ready.tones[at * count + level];
      return [...colours[tone], laid ? tone : 255];
    });
    const context = canvas.getContext("2d");
    if (laid) {
      // The image in grey, so that every colour is the map's; as strong as the map is.
      context.filter = "grayscale(1)";
      drawImage(canvas, set, ready);
      context.filter = "none";
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(drawn, 0, 0, canvas.width, canvas.height);
  };
  const fillLayer = (canvas, item, ready, fill) => {
    const filled = layer(canvas.width, canvas.height);
    const context = filled.getContext("2d");
    context.imageSmoothingEnabled = false;
    if (ready.pictures[fill]) {
      context.drawImage(ready.pictures[fill], 0, 0, filled.width, filled.height);
    } else if (fill === "noise") {
      const noise = new ImageData(filled.width, filled.height);
      let state = 1;
      noise.data.forEach((_, at) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        noise.data[at] = at % 4 === 3 ? 255 : state >>> 24;
      });
      context.putImageData(noise, 0, 0);
    } else {
      context.fillStyle = Array.isArray(item.fills[fill]) ? `rgb(${item.fills[fill].join(",")})` : fill;
      context.fillRect(0, 0, filled.width, filled.height);
    }
    return filled;
  };
  const drawImage = (canvas, set, ready) => {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = set.pixels > 64;
    context.imageSmoothingQuality = "high";
    context.drawImage(ready.pictures.image, 0, 0, canvas.width, canvas.height);
  };
  const drawDeleted = (canvas, set, item, ready, key, condition, step) => {
    drawImage(canvas, set, ready);
    const { mode, fill } = set.conditions[condition];
    const reached = (level) => step > 0 && level <= step;
    const covered = mode === "insertion" ? (level) => !reached(level) : reached;
    const mask = levelLayer(set, ready.levels, set.curves.indexOf(key), (level) => [0, 0, 0, covered(level) ? 255 : 0]);
    const filled = fillLayer(canvas, item, ready, fill);
    const context = filled.getContext("2d");
    context.globalCompositeOperation = "destination-in";
    context.drawImage(mask, 0, 0, filled.width, filled.height);
    canvas.getContext("2d").drawImage(filled, 0, 0);
  };
  const verdict = (set, item, found) => {
    if (!found) return element("span", {}, "–");
    const text = found.keeps ? `✓ ${percent(found.probability)}` : `✗ ${className(set, found.prediction)}`;
    return element("span", { className: found.keeps ? "keeps" : "leaves", title: text }, text);
  };

  // ---- examples: choice
  if (!byId("examples")) {
    applyMethods();
    return;
  }
  const PAGE = 12;
  const view = { slug: byId("pick-panel").value, item: null, step: 0, count: PAGE };
  const theSet = () => data.examples[view.slug];
  const condition = () => +byId("pick-condition").value;
  // The paper's protocol measures some views under black and others under white only.
  const measuredKeys = () => {
    const set = theSet();
    const measured = (key, step) => stepOf(set, set.items[0], key, condition(), step);
    return set.curves.filter((key) => set.fractions.some((_, step) => measured(key, step)));
  };
  const chosenKeys = () => measuredKeys().filter((key) => shown.has(key));
  const steps = () => [0.1, 0.3, 0.5].map((wanted) => {
    const gaps = theSet().fractions.map((fraction) => Math.abs(fraction - wanted));
    return gaps.indexOf(Math.min(...gaps));
  });
  const right = (item) => item.label === item.prediction;
  const chosenItems = () => theSet().items.filter((item) => {
    const wanted = byId("pick-class").value;
    const answers = byId("pick-answers").value;
    return (wanted === "all" || item.label === +wanted) && (answers === "all" || (answers === "right") === right(item));
  });
  const answerText = (set, item) => right(item) ? `${className(set, item.label)}, recognised` : `${className(set, item.label)}, taken for ${className(set, item.prediction)}`;
  const options = (select, entries, kept) => {
    select.replaceChildren(...entries.map(([value, text]) => element("option", { value, textContent: text })));
    if (entries.some(([value]) => String(value) === String(kept))) select.value = kept;
  };

  const changePanel = () => {
    const set = theSet();
    options(byId("pick-condition"), set.conditions.map((each, at) => [at, each.name]), byId("pick-condition").value);
    const counts = new Map();
    for (const item of set.items) counts.set(item.label, (counts.get(item.label) ?? 0) + 1);
    const classes = [...counts.keys()].sort((a, b) => a - b).map((label) => [label, `${className(set, label)} (${counts.get(label)})`]);
    options(byId("pick-class"), [["all", "all classes"], ...classes], "all");
    byId("fraction").max = set.fractions.length - 1;
    view.step = Math.min(view.step, set.fractions.length - 1);
    view.item = null;
    refreshExamples();
  };

  const offerMethods = () => {
    const keys = measuredKeys();
    const entries = keys.map((key) => [key, names.get(key)]);
    const signed = ["gradient/active", "gradient/inactive"].find((key) => keys.includes(key)) ?? keys.at(-1);
    const keep = (select, preferred) => options(select, entries, keys.includes(select.value) ? select.value : preferred);
    keep(byId("pick-method"), signed);
    keep(byId("pick-first"), "gradient/original");
    keep(byId("pick-second"), signed);
  };

  // ---- examples: the single image
  let drawing = 0;
  const drawViewer = async () => {
    const set = theSet(), item = view.item, turn = ++drawing;
    if (!item) return;
    const viewer = document.querySelector(".viewer");
    viewer.setAttribute("aria-busy", "true");
    const key = byId("pick-method").value;
    const ready = await load(set, item);
    if (turn !== drawing) return;
    const found = stepOf(set, item, key, condition(), view.step);
    const { mode, fill, name } = set.conditions[condition()];
    const verb = mode === "insertion" ? "inserted" : "deleted";
    const share = fractionName(set.fractions[view.step]);
    const intact = className(set, item.prediction);
    byId("viewer-title").textContent = `${item.id}: ${answerText(set, item)}`;
    byId("fraction").value = view.step;
    byId("fraction").setAttribute("aria-valuetext", share);
    byId("fraction-text").textContent = share;
    byId("steps-fraction").textContent = verb;
    byId("intact-name").textContent = intact;
    const caption = byId("caption");
    caption.replaceChildren(`${share} of the pixels ${verb} (${fill}), most salient by ${names.get(key)} first: `);
    if (!found) {
      caption.append("not measured.");
    } else if (found.keeps) {
      caption.append(element("span", { className: "keeps" }, `still ${intact}`), `, with probability ${percent(found.probability)}.`);
    } else {
      caption.append(element("span", { className: "leaves" }, `now ${className(set, found.prediction)}`), ` instead of ${intact}, whose probability is ${percent(found.probability)}.`);
    }
    if (fill === "road") caption.append(" The fill shown is a blur; the classifier was given what follows linearly from the neighbours that are left.");
    if (fill === "noise") caption.append(" The noise shown is drawn anew in the browser; the classifier was given the noise of the run.");
    for (const canvas of [byId("view-image"), byId("view-map")]) canvas.classList.toggle("pixelated", set.pixels <= 64);
    drawDeleted(byId("view-image"), set, item, ready, key, condition(), view.step);
    drawMap(byId("view-map"), set, ready, key);
    byId("view-image").setAttribute("aria-label", `${answerText(set, item)}; ${share} of its pixels ${verb}, ${name}`);
    byId("view-map").setAttribute("aria-label", `${names.get(key)} map of ${item.id}; brighter is more salient`);
    const coarse = Math.max(set.width, set.height) < set.pixels;
    byId("grid-note").textContent = coarse ? `, drawn on a grid of ${set.width} × ${set.height}; measured at ${set.pixels}` : "";
    drawSteps(set, item, key);
    viewer.setAttribute("aria-busy", "false");
  };
  const drawSteps = (set, item, key) => {
    const rows = set.fractions.map((fraction, step) => {
      const found = stepOf(set, item, key, condition(), step);
      const bar = element("span");
      bar.style.width = `${found ? 100 * found.probability : 0}%`;
      const row = element("tr", {},
        element("th", { scope: "row", className: "n" }, fractionName(fraction)),
        element("td", { className: !found || found.keeps ? "" : "leaves" }, found ? className(set, found.prediction) : "–"),
        element("td", { className: "n" }, found ? percent(found.probability) : "–"),
        element("td", { className: "bar" }, bar));
      if (step === view.step) row.setAttribute("aria-current", "step");
      row.addEventListener("click", () => goTo(step));
      return row;
    });
    byId("steps").tBodies[0].replaceChildren(...rows);
  };
  const goTo = (step) => { view.step = step; drawViewer(); };
  const open = (item, key) => {
    view.item = item;
    if (key) byId("pick-method").value = key;
    drawViewer();
  };
  const turn = (by) => {
    const items = chosenItems();
    if (items.length) open(items[(items.indexOf(view.item) + by + items.length) % items.length]);
  };

  // ---- examples: cards
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      entry.target.draw();
    }
  }, { rootMargin: "400px" });
  const tile = (size, label) => element("canvas", { width: size, height: size, role: "img", "aria-label": label });
  const card = (set, item, keys, note) => {
    const head = tile(156, `image: ${answerText(set, item)}`);
    const jobs = [(ready) => drawImage(head, set, ready)];
    const at = condition(), shownSteps = steps();
    const rows = keys.map((key) => {
      const map = tile(136, `${names.get(key)} map`);
      jobs.push((ready) => drawMap(map, set, ready, key));
      const cells = shownSteps.map((step) => {
        const found = stepOf(set, item, key, at, step);
        const left = tile(136, `${names.get(key)}, ${fractionName(set.fractions[step])} ${set.conditions[at].name}`);
        jobs.push((ready) => drawDeleted(left, set, item, ready, key, at, step));
        return element("td", {}, left, verdict(set, item, found));
      });
      return element("tr", {}, element("th", { scope: "row" }, names.get(key)), element("td", {}, map, element("span")), ...cells);
    });
    const titles = ["method", "map", ...shownSteps.map((step) => fractionName(set.fractions[step]))];
    const button = element("button", { type: "button" }, "Look closer");
    button.setAttribute("aria-label", `Look closer at ${item.id}`);
    button.addEventListener("click", () => {
      open(item, keys.length === 2 ? keys[1] : undefined);
      byId("viewer-title").scrollIntoView({ block: "center" });
      byId("fraction").focus({ preventScroll: true });
    });
    const table = element("table", {},
      element("colgroup", {}, element("col", { className: "name" })),
      element("thead", {}, element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)))),
      element("tbody", {}, ...rows));
    const title = element("h3", { className: right(item) ? "" : "leaves" }, answerText(set, item));
    const made = element("article", { className: "card" },
      element("div", { className: "card-head" }, head, element("div", {}, title, element("p", {}, note ?? item.id), button)), table);
    for (const canvas of all("canvas", made)) canvas.classList.toggle("pixelated", set.pixels <= 64);
    made.draw = async () => {
      const ready = await load(set, item);
      for (const job of jobs) job(ready);
    };
    watcher.observe(made);
    return made;
  };
  const drawDisputes = () => {
    const set = theSet(), pair = [byId("pick-first").value, byId("pick-second").value];
    const ranked = set.items.map((item) => {
      const [first, second] = pair.map((key) => areasOf(set, item, key, condition()));
      if (!first || !second) return null;
      // A yes-or-no curve has many ties: the probability's area breaks them.
      return { item, first, second, gap: Math.abs(first.area - second.area) + 1e-3 * Math.abs(first.soft - second.soft) };
    }).filter((found) => found && found.gap > 0).sort((a, b) => b.gap - a.gap).slice(0, 6);
    const cards = ranked.map(({ item, first, second }) =>
      card(set, item, pair, `${item.id}: area ${first.area.toFixed(2)} by ${names.get(pair[0])}, ${second.area.toFixed(2)} by ${names.get(pair[1])}`));
    byId("disputes").replaceChildren(...(cards.length ? cards : [element("p", {}, "These two do not differ on any image shown, or were not both measured.")]));
  };
  function refreshExamples() {
    if (!byId("examples") || !byId("pick-condition").options.length) return;
    offerMethods();
    const set = theSet(), items = chosenItems(), keys = chosenKeys();
    byId("shown-count").textContent = `${items.length} of ${set.items.length} images`;
    byId("cards").replaceChildren(...items.slice(0, view.count).map((item) => card(set, item, keys)));
    byId("more").hidden = items.length <= view.count;
    if (!items.includes(view.item)) view.item = items[0] ?? view.item ?? set.items[0];
    drawViewer();
    drawDisputes();
  }

  byId("pick-panel").addEventListener("change", (event) => { view.slug = event.target.value; view.count = PAGE; changePanel(); });
  for (const id of ["pick-condition", "pick-class", "pick-answers"]) {
    byId(id).addEventListener("change", () => { view.count = PAGE; refreshExamples(); });
  }
  byId("over-image").addEventListener("change", refreshExamples);
  byId("pick-method").addEventListener("change", drawViewer);
  for (const id of ["pick-first", "pick-second"]) byId(id).addEventListener("change", drawDisputes);
  byId("fraction").addEventListener("input", (event) => goTo(+event.target.value));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("more").addEventListener("click", () => { view.count += PAGE; refreshExamples(); });
  view.step = Math.min(4, theSet().fractions.length - 1);
  changePanel();
  applyMethods();
})();
