/**
 * Places in a text. The server counts Unicode code points; JavaScript's strings count UTF-16 units, of which a
 * character beyond U+FFFF (an emoji, say) has two.
 */

const STEP = 1024;

const isHigh = (unit) => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit) => unit >= 0xdc00 && unit <= 0xdfff;

export class CodePoints {
  /** Reads the text once; a place is then found in at most `STEP` steps. */
  constructor(text) {
    this.text = text;
    /** Where every `STEP`-th code point begins; null where each is one unit. */
    this.starts = /[\ud800-\udbff]/.test(text) ? [] : null;
    if (this.starts === null) return;
    for (let unit = 0, count = 0; unit < text.length; count++, unit += this.width(unit)) {
      if (count % STEP === 0) this.starts.push(unit);
    }
  }

  width(unit) {
    return isHigh(this.text.charCodeAt(unit)) && isLow(this.text.charCodeAt(unit + 1)) ? 2 : 1;
  }

  /** The UTF-16 index of the code point with number `place`; the text's length for all beyond its end. */
  toUnit(place) {
    if (this.starts === null) return Math.min(place, this.text.length);
    const step = Math.floor(place / STEP);
    if (step >= this.starts.length) return this.text.length;
    let unit = this.starts[step];
    for (let left = place % STEP; left > 0 && unit < this.text.length; left--) unit += this.width(unit);
    return unit;
  }

  /** `text[start:end]` as the server means it. */
  slice(start, end) {
    return this.text.slice(this.toUnit(start), this.toUnit(end));
  }
}

/** Whether a cut before unit `index` would part the two halves of one character. */
export function partsCharacter(text, index) {
  return index > 0 && isHigh(text.charCodeAt(index - 1)) && isLow(text.charCodeAt(index));
}
