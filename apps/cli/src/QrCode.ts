import { encode } from "uqr"

/** Light modules around the code: ISO/IEC 18004 asks for four. */
const border = 4
/** Two modules, one above the other, in one character: both light, upper light, lower light, both dark. */
const halves = { full: "█", upper: "▀", lower: "▄", none: " " } as const

/**
 * A QR code as lines of a terminal, light modules drawn and dark ones left, to be shown light on dark; undefined where it needs more
 * than so many columns.
 */
export const qrLines = (text: string, columns: number): ReadonlyArray<string> | undefined => {
  const { data, size } = encode(text, { ecc: "L", border })
  if (size > columns) return undefined
  const isLight = (row: number, column: number): boolean => data[row]?.[column] !== true
  return Array.from({ length: Math.ceil(size / 2) }, (_, pair) =>
    Array.from({ length: size }, (_, column) => {
      const [upper, lower] = [isLight(2 * pair, column), 2 * pair + 1 >= size || isLight(2 * pair + 1, column)]
      return upper ? (lower ? halves.full : halves.upper) : lower ? halves.lower : halves.none
    }).join("")
  )
}
