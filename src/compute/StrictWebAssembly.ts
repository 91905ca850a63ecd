/**
 * Importing this module makes the thread answer that it has no relaxed SIMD, when asked with the probe of jax-js.
 *
 * `f32x4.relaxed_madd` rounds once where the processor has a fused multiply-add and twice where it has not, so the same
 * kernel gives other bits on other machines. jax-js asks once, when it compiles its first kernel, and falls back to
 * separate multiply and add. Import this before anything that imports jax-js. Other modules are validated as ever.
 */
const relaxedMaddProbe = "0061736d0100000001080160037b7b7b017b030201000a0d010b00200020012002fd85020b"

declare const WebAssembly: { validate: (bytes: ArrayBufferLike | ArrayBufferView) => boolean }

const validate = WebAssembly.validate

const isProbe = (bytes: ArrayBufferLike | ArrayBufferView): boolean => {
  const view = ArrayBuffer.isView(bytes)
    ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    : Buffer.from(bytes)
  return view.length * 2 === relaxedMaddProbe.length && view.toString("hex") === relaxedMaddProbe
}

WebAssembly.validate = bytes => !isProbe(bytes) && validate(bytes)

export {}
