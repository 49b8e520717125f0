// The idea bank's script: filters the board without loading the page again, opens an idea over it, and changes ideas by
// /api/v1/ideas with If-Match. The server's HTML is the only template: a part is asked for again and put in place, and what
// a field was when it was read is its default value. No framework, no inline code, no eval.
"use strict";
(() => {
  const API = "/api/v1/ideas", TYPING_MS = 250, TIMEOUT_MS = 8000, SAID_MS = 6000, SHOWN = 300;
  const board = document.getElementById("quadro"), filters = document.getElementById("filtros");
  const dialog = document.getElementById("janela"), who = document.getElementById("quem");
  const alarm = document.getElementById("alarm"), notice = document.getElementById("notice");
  // `given`: name and key of who changes something, for as long as this page is open; `turn`: the newest question for the board
  const state = { given: null, turn: 0, typing: 0, said: 0 };

  class Told extends Error {} // what the reader is told as it is

  // Asking

  async function page(address) {
    const answer = await asked(address, {});
    const html = await answer.text();
    return { answer, document: new DOMParser().parseFromString(html, "text/html") };
  }

  async function asked(address, options) {
    try {
      return await fetch(address, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    } catch {
      throw new Told("O servidor não responde. Tente de novo.");
    }
  }

  // A change, as who is known to be allowed; asks for name and key where they are not known, or were refused. 412 and 404
  // are answers: somebody was faster.
  async function change(method, address, body, etag) {
    for (let refused = ""; ; refused = "A chave não foi aceita.") {
      state.given ??= await credentials(refused);
      const headers = { "X-API-Key": state.given.key, "X-B3-Who": bytes(state.given.who) };
      if (body) headers["Content-Type"] = "application/json";
      if (etag) headers["If-Match"] = etag;
      const answer = await asked(address, { method, headers, body: body && JSON.stringify(body) });
      if (answer.status !== 401 && answer.status !== 403) return accepted(answer);
      state.given = null;
    }
  }

  // A header has bytes, not letters: the server reads them as UTF-8.
  const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

  async function accepted(answer) {
    if (answer.ok || answer.status === 412 || answer.status === 404) return answer;
    if (answer.status === 503) throw new Told("O banco não aceita mudanças agora. Tente de novo em alguns segundos.");
    if (answer.status === 429) throw new Told("Perguntas demais a este servidor. Tente de novo em um segundo.");
    const problem = await answer.json().catch(() => ({}));
    throw new Told(`O servidor recusou (${answer.status}): ${problem.detail || "sem dizer por quê"}`);
  }

  function credentials(refused) {
    say(who.querySelector("[data-said]"), refused);
    const form = who.querySelector("form");
    form.elements.key.value = "";
    who.returnValue = "";
    who.showModal();
    return new Promise((resolve, reject) => {
      who.addEventListener("close", () => {
        const { who: name, key } = form.elements;
        if (who.returnValue === "ok") resolve({ who: name.value.trim(), key: key.value });
        else reject(new Told("Nada foi mudado."));
      }, { once: true });
    });
  }

  // Telling

  function say(element, text) {
    element.textContent = text;
    element.classList.toggle("shown", text !== "");
  }

  function done(text) {
    say(alarm, "");
    say(notice, text);
    clearTimeout(state.said);
    state.said = setTimeout(() => say(notice, ""), SAID_MS);
  }

  // Runs what a reader began, and tells what went wrong with it.
  async function run(action) {
    say(place(), "");
    try {
      await action();
    } catch (error) {
      say(place(), error instanceof Told ? error.message : "Algo deu errado nesta página. Carregue-a de novo.");
      if (!(error instanceof Told)) throw error;
    }
  }

  // Where errors are told: in the idea that is open, else at the top.
  function place() {
    return (!board || dialog.open) && document.querySelector("#ideia [data-said]") || alarm;
  }

  // The board

  function filtered() {
    const query = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value.trim() !== ""));
    return query.size ? `${filters.action}?${query}` : filters.action;
  }

  // Puts the board of an address in place; false when another one was asked for meanwhile.
  async function load(address) {
    const turn = ++state.turn;
    const { answer, document: next } = await page(address);
    if (turn !== state.turn) return false;
    const part = next.getElementById("quadro");
    if (!part) throw new Told(answer.status === 400 ? "Um dos filtros não pode ser assim." : `O servidor respondeu com erro ${answer.status}.`);
    const focus = path(document.activeElement);
    board.replaceChildren(...document.importNode(part, true).childNodes);
    document.getElementById("contagem").textContent = next.getElementById("contagem").textContent;
    if (focus) document.querySelector(focus)?.focus();
    return true;
  }

  // Where the focus is within a card, so that it is there again when the board was replaced.
  function path(element) {
    const card = element.closest("#quadro .card");
    if (!card) return null;
    return `#${card.id} ${element.closest("[data-move]") ? "select" : "h3 a"}`;
  }

  function show(address, keep) {
    return run(async () => {
      if (await load(address)) history[keep ? "replaceState" : "pushState"](null, "", address);
    });
  }

  // The filters as the address has them.
  function restore() {
    const query = new URLSearchParams(location.search);
    for (const control of filters.elements) if (control.name) control.value = query.get(control.name) || "";
  }

  const refresh = () => (board ? load(location.href) : null);

  // Another status from the card. The idea must be as the card shows it; else it is opened as it is now.
  async function move(form) {
    const card = form.closest(".card"), select = form.elements.status, status = select.value, { id, etag } = card.dataset;
    const answer = await change("PUT", `${API}/${id}`, { status }, etag);
    if (answer.ok) {
      await refresh();
      return done(`Ideia ${id}: ${select.selectedOptions[0].textContent}.`);
    }
    await open(`/ideias/${id}`);
    const article = document.getElementById("ideia");
    article.querySelector("details").open = true;
    article.querySelector("form").elements.status.value = status;
    say(place(), "Esta ideia mudou desde que o quadro foi lido, e esta é a versão de agora. Grave, se ainda quiser mudar a situação.");
    await refresh();
  }

  // An idea

  async function open(address) {
    const article = await fetched(address);
    if (!article) {
      await refresh();
      throw new Told("Esta ideia já não existe: alguém a apagou.");
    }
    document.getElementById("lugar").replaceChildren(article);
    if (!dialog.open) dialog.showModal();
    article.querySelector("h2").focus();
  }

  // The article of an idea as it is now; null where there is none any more.
  async function fetched(address) {
    const { answer, document: next } = await page(address);
    if (answer.status === 404) return null;
    const article = next.getElementById("ideia");
    if (!article) throw new Told("As ideias não estão disponíveis agora. Tente de novo em alguns segundos.");
    return document.importNode(article, true);
  }

  function controls(article) {
    return [...article.querySelector("[data-edit]").elements].filter((control) => control.name);
  }

  function before(control) {
    if (control.nodeName !== "SELECT") return control.defaultValue;
    return ([...control.options].find((option) => option.defaultSelected) || control.options[0]).value;
  }

  // The members that the reader has changed, for all others stay as they are; of a new idea all of them.
  function changed(article) {
    const given = controls(article).filter((control) => !article.dataset.id || control.value !== before(control));
    return Object.fromEntries(given.map((control) => [control.name, member(control)]));
  }

  function member(control) {
    if (control.name !== "tags") return control.value;
    return control.value.split("\n").map((tag) => tag.trim()).filter((tag) => tag !== "");
  }

  async function save(article) {
    const { id, etag } = article.dataset;
    if (!id) return create(article);
    const answer = await change("PUT", `${API}/${id}`, changed(article), etag);
    if (!answer.ok) return conflict(article, save, "Gravar as suas mudanças sobre essa versão");
    await left(article, `Ideia ${id} gravada.`);
  }

  async function create(article) {
    const answer = await change("POST", API, changed(article));
    const { data } = await answer.json();
    if (!board) return location.assign(`/ideias/${data.id}`);
    await left(article, `Ideia ${data.id} criada.`);
  }

  async function remove(article) {
    const { id, etag } = article.dataset;
    const title = article.querySelector("h2").textContent;
    if (!confirm(`Apagar a ideia ${id}, “${title}”?`)) return;
    const answer = await change("DELETE", `${API}/${id}`, null, etag);
    if (answer.status === 412) return conflict(article, remove, "Apagar mesmo assim");
    if (!board) return location.assign("/ideias");
    await left(article, `Ideia ${id} apagada.`);
  }

  // Whether the open idea may be closed: what was typed and not saved is given up only when the reader says so.
  function closable() {
    const article = document.getElementById("ideia");
    const typed = article && controls(article).some((control) => control.value !== before(control));
    return !typed || confirm("Descartar o que escreveu nesta ideia?");
  }

  // After a change: back to the board, or the idea as it is now.
  async function left(article, text) {
    if (board) {
      const { id } = article.dataset;
      dialog.close();
      await refresh();
      document.querySelector(`#cartao-${id} h3 a`)?.focus();
    } else {
      await takeover(article, await fetched(location.pathname));
    }
    done(text);
  }

  async function takeover(article, next) {
    if (!next) throw new Told("Esta ideia já não existe: alguém a apagou.");
    article.replaceWith(next);
    next.querySelector("h2").focus();
  }

  // Somebody else was faster: what became of each field, and the reader chooses. `again` does once more, on the version
  // that is now, what the reader wanted; their own changes go along.
  async function conflict(article, again, label) {
    const next = await fetched(`/ideias/${article.dataset.id}`);
    if (!next) throw new Told("Esta ideia já não existe: alguém a apagou. O que escreveu ainda está aqui, para copiar.");
    const part = article.querySelector("[data-conflict]");
    part.querySelector("tbody").replaceChildren(...differences(article, next));
    const last = next.querySelector("[data-history] li");
    part.querySelector("[data-by]").textContent = last ? `${last.querySelector("[data-who]").textContent} em ${last.querySelector("time").textContent}.` : "";
    const mine = part.querySelector("[data-mine]");
    mine.textContent = label;
    mine.onclick = () => run(async () => {
      carry(article, next);
      article.replaceWith(next);
      await again(next);
    });
    part.querySelector("[data-theirs]").onclick = () => run(() => takeover(article, next));
    part.hidden = false;
    part.querySelector("h3").focus();
    if (board) await refresh();
  }

  function carry(article, next) {
    const there = new Map(controls(next).map((control) => [control.name, control]));
    for (const control of controls(article)) if (control.value !== before(control)) there.get(control.name).value = control.value;
    next.querySelector("details").open = article.querySelector("details").open;
  }

  function differences(article, next) {
    const theirs = new Map(controls(next).map((control) => [control.name, control]));
    return controls(article).filter((mine) => before(theirs.get(mine.name)) !== before(mine) || mine.value !== before(mine)).map((mine) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = mine.closest("label").firstChild.textContent.trim();
      const was = before(mine);
      const shown = (value) => (value === was ? "sem mudança" : words(mine, value));
      const cells = [words(mine, was), shown(before(theirs.get(mine.name))), shown(mine.value)];
      row.append(head, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return row;
    });
  }

  // A value as the reader knows it.
  function words(control, value) {
    if (control.nodeName === "SELECT") return [...control.options].find((option) => option.value === value)?.textContent ?? value;
    const text = control.name === "tags" ? value.split("\n").join(", ") : value;
    return text === "" ? "(nada)" : text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
  }

  // Life

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-open], a[data-filter]");
    if (link && board && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      if (link.hasAttribute("data-open")) run(() => open(link.href));
      else show(link.href).then(restore);
    }
    const article = event.target.closest("#ideia");
    if (article && event.target.closest("[data-delete]")) run(() => remove(article));
  });

  document.addEventListener("submit", (event) => {
    if (event.target.matches("#janela > .close") && !closable()) event.preventDefault();
    if (event.target.matches("[data-edit]")) {
      event.preventDefault();
      const article = event.target.closest("#ideia"), button = event.submitter;
      if (button) button.disabled = true;
      run(() => save(article)).finally(() => { if (button) button.disabled = false; });
    }
    if (event.target.matches("[data-move]")) {
      event.preventDefault();
      run(() => move(event.target));
    }
    if (event.target === filters) {
      event.preventDefault();
      show(filtered());
    }
  });

  // A list changes with every arrow key: only the button moves the card.
  document.addEventListener("change", (event) => {
    const form = event.target.closest("[data-move]");
    if (form) form.querySelector("button").hidden = event.target.value === before(event.target);
  });

  if (filters) {
    filters.addEventListener("input", (event) => {
      clearTimeout(state.typing);
      state.typing = setTimeout(() => show(filtered(), true), event.target.nodeName === "SELECT" ? 0 : TYPING_MS);
    });
    // Escape itself, for a browser that is asked a second time to close a dialog closes it without a question.
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.preventDefault();
      if (closable()) dialog.close();
    });
    dialog.addEventListener("cancel", (event) => { if (!closable()) event.preventDefault(); });
    // A status that was chosen and not moved yet would be gone with the board that is there.
    const chosen = () => board.querySelector("[data-move] button:not([hidden])");
    document.addEventListener("visibilitychange", () => { if (!document.hidden && !dialog.open && !chosen()) run(refresh); });
    addEventListener("popstate", () => {
      restore();
      run(refresh);
    });
  }
  document.documentElement.classList.add("js");
})();
