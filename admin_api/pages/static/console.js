// What the pages add to plain HTML: copying, a regular refresh, live events, and charts. Without it, all of them work.
"use strict";

(() => {
  const TICK_MS = 1000;

  // Buttons that only work with this script are hidden until it has run.
  const prepare = (root) => {
    for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  };

  // A part that loads after its page: what it shows meanwhile, and if that fails. Without this script, it is a link.
  const setLoading = (place, is) => {
    place.querySelector("[data-loading]").hidden = !is;
    place.querySelector("[data-failed]").hidden = is;
    place.querySelector("[data-idle]").hidden = is;
  };

  const copy = async (button) => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Only pages over https, or of this machine, may use the clipboard.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
  });

  // A hidden tab asks nothing; neither does one in which somebody uses a control of the part that would be replaced.
  const isBusy = () => {
    const live = document.getElementById("live");
    const active = document.activeElement;
    if (!live) return true;
    return live.querySelector("details.menu[open]") !== null || (live.contains(active) && active.matches("input, select, textarea, a, button, summary"));
  };
  setInterval(() => {
    if (document.visibilityState === "visible" && !isBusy()) document.body.dispatchEvent(new Event("tick"));
  }, TICK_MS);

  const setStale = (is) => document.body.classList.toggle("is-stale", is);
  document.addEventListener("htmx:afterOnLoad", (event) => {
    const status = event.detail.xhr.status;
    if (status === 401) window.location.reload();
    setStale(status >= 400);
  });
  const fail = (event) => {
    setStale(true);
    if (event.target.matches("[data-loads]")) setLoading(event.target, false);
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.matches("[data-loads]")) setLoading(event.target, true);
  });
  document.addEventListener("htmx:sendError", fail);
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) window.location.reload();
    fail(event);
  });
  document.addEventListener("htmx:afterSwap", () => {
    prepare(document);
    draw();
  });

  // Events of a running operation, as rows; the stream continues where it was cut off.
  const TONES = { done: "good", failed: "bad", warning: "careful" };
  const cellOf = (row, text, name) => {
    const cell = row.insertCell();
    if (name) cell.className = name;
    cell.textContent = text;
    return cell;
  };
  const follow = (body) => {
    const source = new EventSource(body.dataset.events);
    const add = (message) => {
      const event = JSON.parse(message.data);
      if (event.data.bytes_total) {
        const place = document.getElementById("progress");
        place.hidden = false;
        place.querySelector("progress").value = (event.data.bytes_done || 0) / event.data.bytes_total;
      }
      const last = body.rows[body.rows.length - 1];
      // Progress of one step replaces the line before it.
      if (event.kind === "progress" && last && last.dataset.progress === event.step) last.remove();
      const row = body.insertRow();
      if (event.kind === "progress") row.dataset.progress = event.step;
      cellOf(row, event.time.slice(11, 19));
      cellOf(row, event.step);
      const badge = document.createElement("span");
      badge.className = `badge ${TONES[event.kind] || "plain"}`;
      badge.textContent = event.kind;
      row.insertCell().append(badge);
      cellOf(row, event.message, "wide");
    };
    for (const kind of ["started", "progress", "done", "skipped", "warning", "failed"]) source.addEventListener(kind, add);
    // A stream that was refused is not tried again: the session may have ended, which the page itself says.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(() => window.location.reload(), 3 * TICK_MS);
    });
    source.addEventListener("end", () => {
      source.close();
      window.location.reload();
    });
  };

  // Charts of recent figures: [times, series, …] as JSON.
  const drawn = new Map();
  const draw = () => {
    if (typeof uPlot === "undefined") return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const lines = [colour("--after"), colour("--bad"), colour("--focus"), colour("--careful"), colour("--soft")];
    for (const place of document.querySelectorAll("[data-chart]")) {
      const { title, unit, names, data } = JSON.parse(place.dataset.chart);
      const old = drawn.get(place.id);
      if (old) old.destroy();
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
      const size = (value) => {
        const units = ["B", "kB", "MB", "GB", "TB"];
        let place = 0;
        while (Math.abs(value) >= 1024 && place < 4) { value /= 1024; place += 1; }
        return `${value.toFixed(place ? 1 : 0)} ${units[place]}`;
      };
      const words = (value) => (value === null || value === undefined ? "–" : unit === "bytes" ? size(value) : `${Math.round(value * 10) / 10}${unit ? ` ${unit}` : ""}`);
      drawn.set(place.id, new uPlot({
        title, width: place.clientWidth - 16, height: 130, cursor: { y: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
        axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map(words) }],
        series: [{ label: "time" }, ...names.map((label, at) => ({ label, stroke: lines[at % lines.length], width: 1.5, value: (_, value) => words(value) }))],
      }, data, place));
    }
  };

  const start = () => {
    prepare(document);
    for (const body of document.querySelectorAll("[data-events]")) follow(body);
    draw();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
