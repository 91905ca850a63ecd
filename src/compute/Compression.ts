import type { Codec } from "./Codec.ts"
import { halfCodec, plainCodec } from "./FloatCodecs.ts"
import { int8Codec } from "./Int8Codec.ts"
import { numberOption, readOptions, textOption } from "./Options.ts"
import { topKCodec } from "./TopKCodec.ts"

const kinds = ["none", "fp16", "int8", "topK"] as const

/** What travels, as a strategy names it. */
export interface CompressionOptions {
  readonly compression: Codec["kind"]
  /** Share of the elements that `topK` sends; the others do not look at it. */
  readonly density: number
}

/** The options of compression, to stand among those of a strategy. */
export const compressionFields = {
  compression: textOption({
    pattern: new RegExp(`^(${kinds.join("|")})$`),
    allowed: `one of ${kinds.join(", ")}`,
    default: "none"
  }),
  density: numberOption({ above: 0, maximum: 1, unit: "share of the elements that topK sends", default: 0.01 })
}

/**
 * Checks the options of compression and fills in defaults.
 * @throws JobOptionError with a path below `prefix`
 */
export const readCompression = (
  given: Readonly<Record<string, unknown>>,
  options: { readonly prefix?: string; readonly others?: ReadonlyArray<string> } = {}
): CompressionOptions => {
  const { compression, density } = readOptions(compressionFields, given, options)
  return { compression: kinds.find(kind => kind === compression) ?? "none", density }
}

/** A codec for one thread. */
export const makeCodec = ({ compression, density }: CompressionOptions): Codec => {
  switch (compression) {
    case "none":
      return plainCodec()
    case "fp16":
      return halfCodec()
    case "int8":
      return int8Codec()
    case "topK":
      return topKCodec(density)
  }
}
