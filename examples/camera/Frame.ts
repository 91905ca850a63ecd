import { deflateRawSync } from "node:zlib"

/** 24 bits per pixel, red first, from the upper left corner. */
export interface Picture {
  readonly width: number
  readonly height: number
  readonly rgb: Uint8Array
}

/** What is drawn beside the picture. */
export interface Figures {
  /** Of the datagrams that left the sender, 0 to 1. */
  readonly lossRate: number
  readonly roundTripMs: number
}

export const headerBytes = 32
/** 1024 × 1024 pixels that do not compress, and the header. */
export const maxFrameBytes = 3 * 2 ** 20 + 64 * 1024

/**
 * One message: `number u32 | width u16 | height u16 | taken f64, ms since 1970 | loss f32 | round trip f32, ms | 8 bytes 0 | pixels`, the
 * pixels compressed without loss (raw deflate), which every browser can undo.
 */
export const encodeFrame = (
  number: number,
  picture: Picture,
  takenMs: number,
  figures: Figures
): [Uint8Array, Uint8Array] => {
  const header = new Uint8Array(headerBytes)
  const view = new DataView(header.buffer)
  view.setUint32(0, number)
  view.setUint16(4, picture.width)
  view.setUint16(6, picture.height)
  view.setFloat64(8, takenMs)
  view.setFloat32(16, figures.lossRate)
  view.setFloat32(20, figures.roundTripMs)
  return [header, deflateRawSync(picture.rgb, { level: 1 })]
}
