/** Questions to the documents: citations as they are found, then the answer, each marker the door to its source. */

import { fetchEvents, sentence } from "./api.js";
import { announcer, byId, composer, copyButton, failure, follower, h, icon } from "./dom.js";
import { load, save } from "./saved.js";
import { openSource } from "./source.js";

const NEAREST = 3; // passages that a refusal shows
const REMEMBERED = 50; // questions

/** Each `{ question, citations, answer, error, stopped }`; `answer` is the server's, without most of its passages. */
let exchanges = load("ask", []);
let running = null;
let writer;
let scrolled;

export function startAsk() {
  scrolled = follower(byId("ask-scroll"));
  writer = composer(byId("ask-form"), { submit: ask, stop: () => running?.abort() });
  byId("ask-clear").addEventListener("click", () => {
    running?.abort();
    exchanges = [];
    save("ask", exchanges);
    show();
    announcer.say("Questions and answers are cleared.");
    writer.focus();
  });
  show();
}

/** Say what there is to ask. */
export function tellFolder({ folder, documents, sync }) {
  const count = documents.filter(({ status }) => status !== "skipped").length;
  const things = `${count} ${count === 1 ? "document" : "documents"}`;
  byId("ask-folder").textContent = `${folder}: ${things}${sync.state === "running" ? ", more are being read" : ""}`;
}

export const focusAsk = () => writer.focus();

function show() {
  byId("ask-thread").replaceChildren(...exchanges.map(render));
  updateEmpty();
  scrolled.follow(true);
}

function updateEmpty() {
  byId("ask-empty").hidden = exchanges.length > 0;
  byId("ask-clear").hidden = exchanges.length === 0;
}

async function ask(question) {
  const exchange = { question, citations: [] };
  exchanges = [...exchanges, exchange].slice(-REMEMBERED);
  let element = render(exchange);
  const update = () => {
    // A marker that has the focus keeps it: answers only grow.
    const focused = [...element.querySelectorAll("button")].indexOf(document.activeElement);
    const newer = render(exchange);
    element.replaceWith(newer);
    element = newer;
    if (focused >= 0) element.querySelectorAll("button")[focused]?.focus();
    scrolled.follow(false, element);
  };
  byId("ask-thread").append(element);
  updateEmpty();
  scrolled.follow(true, element);
  running = new AbortController();
  const mine = running;
  writer.setBusy(true);
  announcer.say("Searching the documents.");
  try {
    for await (const { name, data } of fetchEvents("api/ask", { body: { question }, signal: mine.signal })) {
      if (data.error) throw new Error(sentence(data.error.message));
      if (name === "citation") exchange.citations.push(data);
      else if (name === "answer") exchange.answer = { ...data, passages: data.passages.slice(0, NEAREST) };
      update();
    }
    if (!exchange.answer) throw new Error("The connection ended before the answer was whole.");
  } catch (error) {
    if (mine.signal.aborted) exchange.stopped = true;
    else exchange.error = error.message;
  }
  if (running === mine) {
    running = null;
    writer.setBusy(false);
  }
  if (!exchanges.includes(exchange)) return; // cleared meanwhile
  update();
  announcer.say(spoken(exchange));
  save("ask", exchanges);
}

function spoken({ answer, error, stopped }) {
  if (error) return error;
  if (stopped) return "Stopped.";
  if (!answer.refused) return `Answer: ${answer.answer}`;
  return `${answer.answer} ${answer.passages.length ? "The nearest passages follow." : ""}`;
}

// --- what is seen -----------------------------------------------------------------------------------------------------

function render(exchange) {
  const { question, answer, error, stopped } = exchange;
  const citations = answer?.citations ?? exchange.citations;
  const done = answer || error || stopped;
  const element = h(
    "article",
    { className: "exchange" },
    h("h2", { className: "question", dir: "auto" }, question),
  );
  if (citations.length) {
    element.append(h("p", { className: "answer", dir: "auto" }, ...citations.flatMap(sentenceOf)));
    element.append(h("h3", { className: "unseen" }, "Sources"));
    element.append(h("ol", { className: "cards" }, ...citations.map(sourceCard)));
  }
  if (!done) element.append(h("p", { className: "working" }, citations.length ? "Looking for more…" : "Reading the documents…"));
  if (answer?.refused) {
    element.append(h("p", { className: "refusal" }, answer.answer));
    if (answer.passages.length) {
      element.append(
        h("h3", { className: "small-heading" }, "Nearest passages"),
        h("ol", { className: "cards" }, ...answer.passages.map(passageCard)),
      );
    }
  }
  if (stopped) element.append(h("p", { className: "muted" }, "Stopped"));
  if (error) {
    const again = h("button", { type: "button", className: "outlined" }, "Try again");
    again.addEventListener("click", () => {
      exchanges = exchanges.filter((each) => each !== exchange);
      element.remove();
      byId("ask-scroll").focus();
      ask(question);
    });
    element.append(failure(error, running ? null : again));
  }
  if (answer && !answer.refused) {
    const seconds = answer.timings?.total;
    element.append(h(
      "div",
      { className: "actions" },
      copyButton(() => quotedText(answer)),
      seconds !== undefined && h("span", { className: "muted" }, `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`),
    ));
  }
  return element;
}

/** A sentence of the answer with the words that answer stressed, and its marker. */
function sentenceOf(citation) {
  const characters = Array.from(citation.quote); // by code points, as the offsets are
  const part = (from, to) => characters.slice(from - citation.start, to - citation.start).join("");
  const { start, end, answer_start, answer_end } = citation;
  return [
    part(start, answer_start),
    answer_start < answer_end ? h("strong", {}, part(answer_start, answer_end)) : "",
    part(answer_end, end),
    "\u00a0",
    markerButton(citation),
    " ",
  ];
}

function markerButton(citation) {
  const button = h(
    "button",
    {
      type: "button",
      className: "marker",
      "aria-label": `Source ${citation.marker}: ${citation.file}, page ${citation.page}`,
    },
    String(citation.marker),
  );
  return opens(button, citationPlace(citation));
}

const citationPlace = (citation) => ({
  ...citation,
  answerStart: citation.answer_start,
  answerEnd: citation.answer_end,
});

/** Make a button open the source at a place; while that is open, the button looks so. */
function opens(button, place) {
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", "source");
  button.addEventListener("click", () => openSource(place, { opener: button }));
  return button;
}

const sourceCard = (citation) => h("li", {}, opens(
  h(
    "button",
    { type: "button", className: "card" },
    h("span", { className: "marker still", "aria-hidden": "true" }, String(citation.marker)),
    cardText(citation.file, citation.page, citation.quote),
  ),
  citationPlace(citation),
));

const passageCard = (passage) => h("li", {}, opens(
  h("button", { type: "button", className: "card" }, icon("target"), cardText(passage.file, passage.page, passage.text)),
  { ...passage, quote: passage.text },
));

const cardText = (file, page, quote) => h(
  "span",
  { className: "card-text" },
  h("span", { className: "card-place" }, h("span", { className: "file" }, file), h("span", {}, `page ${page}`)),
  h("span", { className: "card-quote", dir: "auto" }, quote),
);

/** An answer for pasting elsewhere: its sentences, then where each stands. */
function quotedText({ answer, citations }) {
  const places = citations.map(({ marker, file, page, start, end }) => (
    `[${marker}] ${file}, page ${page}, characters ${start}-${end}`));
  return `${answer}\n\n${places.join("\n")}`;
}
