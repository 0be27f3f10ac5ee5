/** The theme (light or dark): the system's theme, or the user's choice. The browser stores the choice. */

const NAME = "arlarena-theme";
const CHOICES = ["system", "light", "dark"];
const LABELS = { system: "◐ System", light: "○ Light", dark: "● Dark" };

function read() {
  try {
    const kept = localStorage.getItem(NAME) ?? "system";
    return CHOICES.includes(kept) ? kept : "system";
  } catch {
    return "system"; // the browser stores no data for this page
  }
}

/** @param {HTMLElement} button @param {string} choice */
function apply(button, choice) {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  button.textContent = LABELS[/** @type {"light"} */ (choice)];
  button.setAttribute("aria-label", `Theme: ${choice}. Change the theme`);
  button.title = `Theme: ${choice} (T)`;
}

/** Applies the stored theme, and returns the function that switches to the next theme.
 * @param {HTMLElement} button @returns {() => void} */
export function startTheme(button) {
  let choice = read();
  apply(button, choice);
  const next = () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length] ?? "system";
    try {
      localStorage.setItem(NAME, choice);
    } catch {
      // the browser stores no data for this page
    }
    apply(button, choice);
  };
  button.addEventListener("click", next);
  return next;
}
