import { assert, describe, it } from "@effect/vitest"
import "../../src/compute/KernelInstances.ts"

// Node's types leave WebAssembly to those of the browser, which are not loaded here.
declare const WebAssembly: {
  readonly Memory: new (limits: { readonly initial: number }) => object
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (
    module: object,
    imports: { readonly env?: { readonly memory: object } }
  ) => { readonly exports: { readonly kernel?: unknown } }
}

/** `(module (import "env" "memory" (memory 0)) (func (export NAME)))` */
const moduleExporting = (name: string): Uint8Array<ArrayBuffer> => {
  const text = (value: string) => [value.length, ...Buffer.from(value)]
  const section = (id: number, bytes: ReadonlyArray<number>) => [id, bytes.length, ...bytes]
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [1, 0x60, 0, 0]),
    ...section(2, [1, ...text("env"), ...text("memory"), 2, 0, 0]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...text(name), 0, 0]),
    ...section(10, [1, 2, 0, 0x0b])
  ])
}

const memory = () => new WebAssembly.Memory({ initial: 0 })

describe("Instances of kernels", () => {
  it("are made once per module and memory", () => {
    const module = new WebAssembly.Module(moduleExporting("kernel"))
    const env = { memory: memory() }
    const first = new WebAssembly.Instance(module, { env })
    assert.isFunction(first.exports.kernel)
    assert.strictEqual(new WebAssembly.Instance(module, { env }), first)
    assert.notStrictEqual(new WebAssembly.Instance(module, { env: { memory: memory() } }), first)
  })

  it("are made anew for every other module, which may have state of its own", () => {
    const module = new WebAssembly.Module(moduleExporting("main"))
    const env = { memory: memory() }
    assert.notStrictEqual(new WebAssembly.Instance(module, { env }), new WebAssembly.Instance(module, { env }))
  })

  it("leave a module without its import refused", () => {
    assert.throws(() => new WebAssembly.Instance(new WebAssembly.Module(moduleExporting("kernel")), {}))
  })
})
