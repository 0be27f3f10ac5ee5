/** The observation of an agent: images, a drawn board, a page of a shop, or text. */

import { h, textBlock } from "../core/dom.js";
import { board, roomOf } from "./board.js";
import { argument, isShopPage, shopPage } from "./shop_page.js";

/**
 * Returns the picture of an observation, or null if only its text can be shown.
 * @param {string} text
 * @param {{images?: string[], action?: string, actions?: string[] | null}} [options] `images`: data URLs of PNG or JPEG
 * @returns {HTMLElement | SVGElement | null}
 */
export function picture(text, options = {}) {
  const images = (options.images ?? []).filter((each) => /^data:image\/(png|jpeg|webp|gif);base64,/.test(each));
  if (images.length) return h("div", { class: "images" }, images.map((src, index) => h("img", { src, alt: `Image ${index + 1} of the observation` })));
  const room = roomOf(text);
  if (room) return board(room);
  return isShopPage(text) ? shopPage(text, { chosen: argument(options.action ?? ""), actions: options.actions }) : null;
}

/**
 * Returns the picture with the text below it, or the text alone.
 * @param {{text: string, truncated: boolean} | null} observation @param {string} label @param {{images?: string[], action?: string, actions?: string[] | null}} [options]
 */
export function frame(observation, label, options = {}) {
  if (!observation) return h("p", { class: "note" }, "not recorded");
  const shown = picture(observation.text, options);
  const text = textBlock(observation.text, { label, truncated: observation.truncated });
  return shown ? [h("div", { class: "frame" }, shown), h("details", {}, h("summary", {}, "Text of the frame"), text)] : text;
}
