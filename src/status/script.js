// Keeps a page up to date: the endpoint sends the parts that changed, and they are put in place of the old ones, node by
// node, so that what has the focus, is selected or was scrolled stays as it is.
"use strict";

function renew(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  renewChildren(from, to);
}

function renewChildren(from, to) {
  const olds = [...from.childNodes];
  const news = [...to.childNodes];
  news.forEach((node, i) => (i < olds.length ? renew(olds[i], node) : from.append(node)));
  olds.slice(news.length).forEach((node) => node.remove());
}

const state = document.createElement("p");
state.className = "live";
const words = document.createElement("span");
words.setAttribute("role", "status");
const button = document.createElement("button");
button.type = "button";
state.append(words, button);
document.querySelector("header").append(state);

let source = null;
let paused = false;

function say(live, text) {
  state.dataset.state = live;
  if (words.textContent !== text) words.textContent = text;
  button.textContent = paused ? "Go on" : "Pause";
}

function open() {
  const asked = new URLSearchParams(location.search);
  asked.set("page", location.pathname);
  source = new EventSource("/events?" + asked);
  source.onmessage = ({ data }) => {
    for (const { id, html } of JSON.parse(data).parts) {
      const old = document.getElementById(id);
      if (!old) continue;
      const fresh = document.createElement("div");
      fresh.innerHTML = html;
      renewChildren(old, fresh);
    }
    say("on", "Live");
  };
  // A stream ends now and then; the browser opens it again by itself, unless the rank is gone or refuses.
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    say("off", "Not live");
    setTimeout(() => { if (source && source.readyState === EventSource.CLOSED) watch(); }, 5000);
  };
}

function watch() {
  if (source) source.close();
  source = null;
  if (paused) say("off", "Paused");
  else if (!document.hidden) open();
}

button.addEventListener("click", () => { paused = !paused; watch(); });
// A browser has few connections to one rank: pages that nobody sees give theirs back.
document.addEventListener("visibilitychange", watch);
say("off", "Connecting");
watch();
