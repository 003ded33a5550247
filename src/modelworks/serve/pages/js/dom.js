/** Making elements, and telling people who listen instead of look. */

/**
 * An element. `properties` are set as properties, those with a hyphen as attributes; text children become text nodes,
 * never markup, and absent ones (null, false) are left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const byId = (id) => document.getElementById(id);

/** A notice of something that went wrong, with what can be done about it. */
export function failure(message, action = null) {
  return h("div", { className: "notice error", role: "alert" }, h("p", {}, message), action);
}

/** A small button that copies `text()` and says so. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", className: "quiet small" }, icon("copy"), h("span", {}, label));
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    button.replaceChildren(icon(copied ? "check" : "copy"), h("span", {}, copied ? "Copied" : "Press Ctrl+C"));
    announcer.say(copied ? "Copied." : "The browser does not allow copying; the text is selected.");
    setTimeout(() => button.replaceChildren(icon("copy"), h("span", {}, label)), 1500);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch (error) {
      if (error.name !== "NotAllowedError") throw error;
    }
  }
  // Pages that do not come over https or from this machine have no clipboard; the old command may still work.
  const area = h("textarea", { value: text, className: "unseen", readOnly: true });
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}

/** Speaks to screen readers, of a text that streams in whole sentences only. */
export const announcer = {
  rest: "",

  say(text) {
    // Each is a node of its own: a changed text node would be read from its beginning again.
    const place = byId("announcer");
    place.append(h("p", {}, text));
    while (place.childElementCount > 20) place.firstElementChild.remove();
  },

  stream(text) {
    this.rest += text;
    const ends = [...this.rest.matchAll(/[.!?:]["')\]]*\s|[。！？]|\n/g)];
    if (!ends.length) return;
    const { index, 0: end } = ends.at(-1);
    this.sayPlain(this.rest.slice(0, index + end.length));
    this.rest = this.rest.slice(index + end.length);
  },

  end() {
    this.sayPlain(this.rest);
    this.rest = "";
  },

  sayPlain(markdown) {
    const plain = markdown.replace(/[*_`#>|~]+/g, " ").replace(/\s+/g, " ").trim();
    if (plain) this.say(plain);
  },
};

/** Grow a text area with its text, up to what the style sheet allows. */
export function growing(area) {
  const grow = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  };
  area.addEventListener("input", grow);
  return grow;
}

/**
 * The form that messages and questions are written in. Enter submits, Shift and Enter starts a new line; `submit` gets
 * the text, `stop` is called by the button that stands in for the other one while `busy`.
 */
export function composer(form, { submit, stop }) {
  const area = form.querySelector("textarea");
  const [sendButton, stopButton] = form.querySelectorAll("button.send");
  const grow = growing(area);
  let busy = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (!text || busy) return;
    area.value = "";
    grow();
    submit(text);
  });
  area.addEventListener("keydown", (event) => {
    // While an input method composes, Enter chooses a character.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stopButton.addEventListener("click", stop);
  return {
    focus: () => area.focus(),
    fill(text) {
      area.value = text;
      grow();
      area.focus();
    },
    setBusy(value) {
      busy = value;
      const moves = document.activeElement === (busy ? sendButton : stopButton);
      sendButton.hidden = busy;
      stopButton.hidden = !busy;
      if (moves) (busy ? stopButton : area).focus();
    },
  };
}

/** Keeps a scrolled place at its end while it grows, unless someone has scrolled away from there. */
export function follower(scroll) {
  let follows = true;
  scroll.addEventListener("scroll", () => {
    follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  }, { passive: true });
  return {
    /** Go to the end, but not so far that the beginning of `kept` goes out of sight. */
    follow(force = false, kept = null) {
      if (force) follows = true;
      if (!follows) return;
      const above = kept ? kept.getBoundingClientRect().top - scroll.getBoundingClientRect().top : Infinity;
      scroll.scrollTop = Math.min(scroll.scrollHeight, scroll.scrollTop + above);
    },
  };
}
