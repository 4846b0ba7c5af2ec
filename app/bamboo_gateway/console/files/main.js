/** The page as a whole: which view an address shows, and the login. */

import { call, get, useShare } from "./api.js";
import { attempt, fromTemplate, h } from "./dom.js";
import { OperatingView } from "./operating.js";
import { SessionView } from "./session.js";
import { SessionsView } from "./sessions.js";

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const navigation = /** @type {HTMLElement} */ (document.querySelector("header nav"));
const logout = /** @type {HTMLButtonElement} */ (document.getElementById("logout"));

let path = "";

/** Show what the address names. @param {boolean} [again] Also when it is shown already. */
function route(again = false) {
  const wanted = location.hash.replace(/^#/, "").split("?")[0] || "/";
  // The filters of the list change the address, and not what is shown.
  if (wanted === path && !again) return;
  const isFirst = path === "";
  path = wanted;
  const [, kind, id, token, scope] = path.split("/").map(decoded);
  useShare(kind === "shared" ? (token ?? "") : "", scope === "answer");
  navigation.hidden = kind === "shared";
  logout.hidden = kind === "shared" || !needsLogin;
  main.replaceChildren(viewOf(kind, id));
  for (const link of navigation.querySelectorAll("a")) {
    const isHere = link.hash === `#/${kind === "operating" ? kind : ""}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // So that a keyboard and a screen reader go on in the new view.
  if (!isFirst) main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string | undefined} kind @param {string | undefined} id @returns {HTMLElement} */
function viewOf(kind, id) {
  if ((kind === "sessions" || kind === "shared") && id) {
    const view = new SessionView();
    view.sessionId = id;
    return view;
  }
  if (kind === "operating") return new OperatingView();
  if (!kind) return new SessionsView();
  return h("div", { class: "empty" }, h("h1", {}, "Nothing is here"), h("p", {}, h("a", { href: "#/" }, "All sessions")));
}

function showLogin() {
  if (main.querySelector(".login") || path.startsWith("/shared/")) return;
  document.title = "Log in – Bamboo console";
  navigation.hidden = true;
  logout.hidden = true;
  const { root } = fromTemplate("login-page");
  main.replaceChildren(root);
  const form = /** @type {HTMLFormElement} */ (main.querySelector("form"));
  const field = /** @type {HTMLInputElement} */ (form.elements.namedItem("credential"));
  const failure = /** @type {HTMLElement} */ (form.querySelector(".error"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    failure.hidden = true;
    try {
      const credential = field.value.trim();
      // A header takes no other characters, and no credential has them.
      if (!/^[!-~]+$/.test(credential)) throw new Error("This is no key and no token.");
      await call("POST", "/login", { headers: { Authorization: `Bearer ${credential}` } });
      needsLogin = true;
      route(true);
    } catch (error) {
      failure.textContent = error instanceof Error ? error.message : String(error);
      failure.hidden = false;
      field.select();
    }
  });
  field.focus();
}

/** Whether there is a login to end. */
let needsLogin = false;

async function begin() {
  window.addEventListener("hashchange", () => route());
  window.addEventListener("unauthorized", showLogin);
  logout.addEventListener("click", () => void attempt(async () => {
    await call("POST", "/logout");
    path = "";
    location.hash = "#/";
    showLogin();
  }));
  // A menu closes when something in it, or beside it, is clicked.
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!(event.target instanceof Element) || !event.target.closest("details.menu summary")) menu.removeAttribute("open");
    }
  });
  route();
  // The front page tells its version only where everybody is served.
  const about = await get("../../").catch(() => null);
  needsLogin = about !== null && about.version === null;
  logout.hidden = !needsLogin || path.startsWith("/shared/") || main.querySelector(".login") !== null;
}

void begin();
