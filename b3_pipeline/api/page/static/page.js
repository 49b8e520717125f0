// The page's own script: fetches what changes, puts it in place without losing focus or choices, draws the charts,
// sorts and filters the settlements, and says when the connection is gone. No framework, no inline code, no eval.
"use strict";
(() => {
  const EVERY_MS = 2000, LONGEST_MS = 30000, TIMEOUT_MS = 8000, SAID_MS = 6000;
  const live = document.getElementById("live");
  const alarm = document.getElementById("alarm"), notice = document.getElementById("notice");
  const bokehSrc = document.currentScript.dataset.bokeh;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const ZONE = "America/Sao_Paulo";
  const clock = new Intl.DateTimeFormat("pt-BR", { timeZone: ZONE, timeStyle: "medium" });
  const calendar = new Intl.DateTimeFormat("pt-BR", { timeZone: ZONE, dateStyle: "short" });
  // `at`: of when the values are; `now` and `heard`: the server's time and ours when it answered last
  const state = { at: "", now: 0, heard: 0, etag: null, tenor: null, failures: 0, sort: null, instrument: "", drawn: new Map(), charts: null, timer: 0, turn: 0 };

  // Fetching

  function tenorQuery() {
    return state.tenor ? `vencimento=${encodeURIComponent(state.tenor)}` : "";
  }

  function get(address, headers) {
    return fetch(address, { headers: headers || {}, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  }

  async function refresh() {
    const turn = ++state.turn;
    clearTimeout(state.timer);
    let wait = EVERY_MS;
    try {
      const answer = await get(`/page/fragment?${tenorQuery()}`, state.etag ? { "If-None-Match": state.etag } : {});
      if (turn !== state.turn) return;
      if (!answer.ok && answer.status !== 304) throw answer;
      if (answer.status === 200) {
        const html = await answer.text();
        if (turn !== state.turn) return;
        replace(html);
        state.etag = answer.headers.get("ETag");
      }
      seen(answer.headers.get("X-B3-At"), Number(answer.headers.get("Age")) || 0);
      connected();
      await draw();
    } catch (error) {
      if (turn !== state.turn) return;
      wait = disconnected(error);
    }
    if (turn === state.turn && !document.hidden) state.timer = setTimeout(refresh, wait);
  }

  function seen(at, ageS) {
    if (!at) return;
    Object.assign(state, { at, now: Date.parse(at) + ageS * 1000, heard: Date.now() });
    tellTime();
  }

  // Of when the values are: the time, and its day where that is not today.
  function timeOf(at) {
    const moment = new Date(at), day = calendar.format(moment);
    return { day: day === calendar.format(new Date()) ? "" : day, time: clock.format(moment) };
  }

  function tellTime() {
    const shown = document.getElementById("updated");
    if (!shown || !state.at) return;
    const { day, time } = timeOf(state.at);
    shown.dateTime = state.at;
    const text = day ? `em ${day} às ${time}` : `às ${time}`;
    if (shown.textContent !== text) shown.textContent = text;
  }

  // While nobody answers, what was last known grows older all the same. The words are those of formats.age.
  function grow() {
    const now = state.now + Date.now() - state.heard;
    for (const time of document.querySelectorAll("time.age")) {
      const minutes = Math.floor((now - Date.parse(time.dateTime)) / 60000), hours = Math.floor(minutes / 60);
      const text = minutes < 1 ? "há menos de 1 min" : hours < 1 ? `há ${minutes} min`
        : hours < 48 ? `há ${hours} h` : `há ${Math.floor(hours / 24)} dias`;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
    element.classList.toggle("shown", text !== "");
  }

  function connected() {
    if (state.failures) {
      say(alarm, "");
      say(notice, "Conexão restabelecida.");
      setTimeout(() => say(notice, ""), SAID_MS);
    }
    state.failures = 0;
    document.body.classList.remove("disconnected");
  }

  // The wait until the next attempt: twice as long each time, a little by chance so that not all come back at once.
  function disconnected(error) {
    state.failures += 1;
    document.body.classList.add("disconnected");
    state.etag = null; // what the next answer has takes the place of what has grown older here
    let since = "";
    if (state.at) {
      const { day, time } = timeOf(state.at);
      since = ` Os valores são de ${day ? `${day} às ` : ""}${time}.`;
      tellTime();
      grow();
    }
    const why = error instanceof Response ? reasons(error.status) : "Desconectado: o servidor não responde.";
    say(notice, "");
    say(alarm, `${why}${since} Tentando de novo…`);
    const asked = error instanceof Response ? Number(error.headers.get("Retry-After")) * 1000 || 0 : 0;
    const backoff = Math.min(LONGEST_MS, EVERY_MS * 2 ** (state.failures - 1));
    return Math.max(asked, backoff * (0.8 + 0.4 * Math.random()));
  }

  function reasons(status) {
    if (status === 503) return "Dados indisponíveis: o banco de dados não responde.";
    if (status === 429) return "Perguntas demais a este servidor.";
    if (status === 401 || status === 403) return "Este navegador não tem permissão para ler os dados.";
    return `Desconectado: o servidor respondeu com erro ${status}.`;
  }

  // Putting in place

  function replace(html) {
    const next = new DOMParser().parseFromString(html, "text/html").getElementById("parts");
    const now = document.getElementById("parts");
    if (!next) return;
    if (now) morph(now, next); else live.replaceChildren(document.importNode(next, true));
    settle();
  }

  // Makes one tree equal another, touching only what differs: focus, scrolling and open details stay.
  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || (from.id || "") !== (to.id || "")) {
      from.replaceWith(document.importNode(to, true));
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.hasAttribute("data-flash") && from.textContent !== to.textContent) flash(from);
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !(name === "open" && from.nodeName === "DETAILS") && name !== "hidden" && name !== "data-theme") from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (name !== "aria-pressed" && name !== "selected" && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    if (from.hasAttribute("data-keep")) return;
    const old = [...from.childNodes], fresh = [...to.childNodes];
    for (let i = fresh.length; i < old.length; i++) old[i].remove();
    fresh.forEach((node, i) => (i < old.length ? morph(old[i], node) : from.append(document.importNode(node, true))));
  }

  function flash(element) {
    element.classList.remove("flash");
    requestAnimationFrame(() => element.classList.add("flash"));
  }

  // After every change: what the reader chose is put back.
  function settle() {
    const picker = document.getElementById("tenor");
    if (picker) {
      if (state.tenor && [...picker.options].some((option) => option.value === state.tenor)) picker.value = state.tenor;
      else state.tenor = null;
    }
    sort();
    filter();
  }

  // The settlement table

  function sort() {
    const table = document.getElementById("settlements");
    if (!table || !state.sort) return;
    const { column, ascending } = state.sort;
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
      if (i === column) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row, i) => [keyOf(row.cells[column]), i, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === "" || b === "") return a === b ? i - j : a === "" ? 1 : -1; // what is absent stays below
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "pt-BR");
      return (ascending ? order : -order) || i - j;
    });
    if (keyed.some(([, i], place) => i !== place)) body.append(...keyed.map(([, , row]) => row));
  }

  function keyOf(cell) {
    const text = cell.hasAttribute("data-v") ? cell.dataset.v : cell.textContent.trim();
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  }

  function filter() {
    const chips = [...document.querySelectorAll(".chips button")];
    if (!chips.some((chip) => chip.dataset.instrument === state.instrument)) state.instrument = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.instrument === state.instrument));
    for (const row of document.querySelectorAll("#settlements tbody tr")) {
      row.hidden = state.instrument !== "" && row.dataset.instrument !== state.instrument;
    }
  }

  live.addEventListener("click", (event) => {
    const header = event.target.closest("#settlements th button");
    if (header) {
      const column = header.closest("th").cellIndex;
      const again = state.sort && state.sort.column === column;
      state.sort = { column, ascending: again ? !state.sort.ascending : true };
      sort();
    }
    const chip = event.target.closest(".chips button");
    if (chip) {
      state.instrument = chip.dataset.instrument;
      filter();
    }
  });

  live.addEventListener("change", (event) => {
    if (event.target.id !== "tenor") return;
    state.tenor = event.target.value;
    state.etag = null;
    history.replaceState(null, "", `?${tenorQuery()}${location.hash}`);
    refresh();
  });

  // Charts

  let library = null;
  function bokeh() {
    library ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = bokehSrc;
      script.onload = () => { window.Bokeh.set_log_level("error"); resolve(window.Bokeh); };
      script.onerror = () => { library = null; script.remove(); reject(new Error("bokeh")); };
      document.head.append(script);
    });
    return library;
  }

  // Asks for the charts when the page's parts say that they are others, and draws those that are; one after the other.
  let drawing = Promise.resolve();
  function draw() {
    const next = drawing.then(drawNow);
    drawing = next.catch(() => {});
    return next;
  }

  async function drawNow() {
    const parts = document.getElementById("parts");
    const theme = dark.matches ? "escuro" : "claro";
    const key = `${parts ? parts.dataset.charts : ""} ${theme}`;
    if (!parts || !parts.dataset.charts || (key === state.charts && !undrawn())) return;
    const [answer, Bokeh] = await Promise.all([get(`/page/charts?tema=${theme}&${tenorQuery()}`), bokeh()]);
    if (!answer.ok) throw answer;
    const { charts } = await answer.json();
    for (const place of document.querySelectorAll("[data-chart]")) {
      const chart = charts[place.dataset.chart], before = state.drawn.get(place);
      if (!chart || (before && before.version === chart.version)) continue;
      forget(place, Bokeh);
      place.replaceChildren();
      const views = await Bokeh.embed.embed_item(chart.item, place);
      state.drawn.set(place, { version: chart.version, views });
      place.dataset.theme = theme; // paper needs it
      hush(place);
      fit(place);
    }
    for (const place of [...state.drawn.keys()]) if (!place.isConnected) forget(place, Bokeh);
    state.charts = key;
  }

  function undrawn() {
    return [...document.querySelectorAll("[data-chart]")].some((place) => !state.drawn.has(place));
  }

  function forget(place, Bokeh) {
    const before = state.drawn.get(place);
    state.drawn.delete(place);
    if (!before) return;
    for (const view of [...before.views.roots]) {
      const at = Bokeh.documents.indexOf(view.model.document);
      if (at >= 0) Bokeh.documents.splice(at, 1);
    }
    before.views.clear();
  }

  // A chart is one picture with a text: nothing inside it is a stop of its own for the keyboard.
  function hush(root) {
    for (const element of root.querySelectorAll("*")) {
      element.removeAttribute("tabindex");
      if (element.shadowRoot) hush(element.shadowRoot);
    }
  }

  // On a phone the heatmap's numbers would lie over one another: its colours, a tap and the table tell them.
  function fit(place) {
    const drawn = state.drawn.get(place);
    if (place.dataset.chart !== "heatmap" || !drawn) return;
    for (const view of drawn.views.roots) {
      for (const model of view.model.references()) {
        if (model.glyph && model.glyph.type === "Text") model.visible = place.clientWidth >= 480;
      }
    }
  }
  addEventListener("resize", () => { for (const place of state.drawn.keys()) fit(place); });

  // Life

  const opened = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) { details.open = true; opened.push(details); }
  });
  addEventListener("afterprint", () => { for (const details of opened.splice(0)) details.open = false; });
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(state.timer) : refresh()));
  dark.addEventListener("change", () => refresh());
  addEventListener("online", () => refresh());

  document.documentElement.classList.add("js");
  state.tenor = new URLSearchParams(location.search).get("vencimento");
  settle();
  seen(live.dataset.at, 0);
  requestAnimationFrame(() => setTimeout(refresh, 0)); // the first picture before the charts' script
})();
