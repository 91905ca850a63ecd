import "./StrictWebAssembly.ts"
import "./KernelInstances.ts"
import { readFileSync } from "node:fs"
import { findPackageJSON } from "node:module"
import * as jax from "@jax-js/jax"
import type { Backend } from "./Model.ts"
import { isRecord } from "./Options.ts"

/** An array as a model's functions see it. Operations leave it usable: it can be read any number of times. */
export type Tensor = jax.Array

const Tracer: unknown = Object.getPrototypeOf(jax.Array)

/** True for an array of jax-js itself, concrete or traced. */
const isNative = (value: unknown): value is Tensor => typeof Tracer === "function" && value instanceof Tracer

const natives = new WeakMap<object, Tensor>()

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const mapTree = (value: unknown, change: (leaf: unknown) => unknown): unknown => {
  if (Array.isArray(value)) return value.map(item => mapTree(item, change))
  if (typeof value === "object" && value !== null && !natives.has(value) && !isNative(value) && isPlain(value))
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapTree(item, change)]))
  return change(value)
}

/**
 * What jax-js may consume: each array with a reference of its own, callbacks turned inside out.
 *
 * In jax-js a function owns its arguments and frees them; a value that is used twice must be passed as `x.ref`. Users of
 * {@link np} and its like never write that: every call lends a fresh reference, and no array is freed by a call. The
 * functions of a model run only while they are traced, once per shape, so what is never freed does not grow with steps.
 */
export const lend = (value: unknown): unknown =>
  mapTree(value, leaf => {
    if (typeof leaf === "function")
      return (...given: Array<unknown>): unknown => lend(Reflect.apply(leaf, undefined, given.map(present)))
    if (typeof leaf !== "object" || leaf === null) return leaf
    return natives.get(leaf)?.ref ?? leaf
  })

/** What users receive in place of the arrays of jax-js: the same, with methods that lend as {@link lend} says. */
export const present = (value: unknown): unknown =>
  mapTree(value, leaf => {
    if (isNative(leaf)) return natives.has(leaf) ? leaf : presentArray(leaf)
    if (typeof leaf === "function") return presentFunction(leaf)
    return leaf
  })

const presentFunction = (target: Function): unknown =>
  target === jax.Array
    ? target
    : (...given: Array<unknown>): unknown => present(Reflect.apply(target, undefined, given.map(lend)))

const presentArray = (native: Tensor): Tensor => {
  const array: Tensor = new Proxy(native, {
    get(target, name): unknown {
      if (name === "ref") return array
      if (name === "dispose") return () => undefined
      if (name === Symbol.iterator)
        return function* () {
          for (const row of target.ref) yield present(row)
        }
      const member: unknown = Reflect.get(target, name, target)
      return typeof member !== "function" || name === "constructor"
        ? member
        : (...given: Array<unknown>): unknown => {
            const borrowed = name === "toString" ? target : target.ref
            return present(Reflect.apply(member, borrowed, given.map(lend)))
          }
    }
  })
  natives.set(array, native)
  return array
}

const presentModule = <M extends object>(module: M): M =>
  new Proxy(module, {
    get(target, name): unknown {
      const member: unknown = Reflect.get(target, name)
      if (typeof member === "function") return presentFunction(member)
      return typeof member === "object" && member !== null && name !== "prototype" ? presentModule(member) : member
    }
  })

/** `jax.numpy` without manual references: `np.dot(x, w).add(b)`, where `x`, `w` and `b` stay usable. */
export const np: typeof jax.numpy = presentModule(jax.numpy)
/** `jax.nn` without manual references: activations, softmax, oneHot. */
export const nn: typeof jax.nn = presentModule(jax.nn)
/** `jax.random` without manual references. */
export const random: typeof jax.random = presentModule(jax.random)
/** `jax.lax` without manual references: convolutions and other primitives. */
export const lax: typeof jax.lax = presentModule(jax.lax)

/** A concrete array of jax-js from flat data in row-major order, which may be shared memory: jax-js copies it into its own at once. */
export const toDevice = (data: Float32Array | Int32Array | Uint32Array, shape: ReadonlyArray<number>): Tensor =>
  // Its type asks for memory that is not shared; `Uint8Array.set`, which is all that happens to it, does not.
  jax.numpy.array(data as Parameters<typeof jax.numpy.array>[0], { shape: [...shape] })

/** True when products are rounded before they are added: 1 + 2⁻¹² squared, minus its rounded value, is zero only then. */
const roundsProducts = (): boolean => {
  const size = 64
  const near = Float32Array.from({ length: size * 2 }, (_, index) => (index % 2 === 0 ? 1 : 1 + 2 ** -12))
  const far = Float32Array.from({ length: size * 2 }, (_, index) => (index % 2 === 0 ? -(1 + 2 ** -11) : 1 + 2 ** -12))
  const sums = jax.numpy.dot(toDevice(near, [size, 2]), toDevice(far, [size, 2]).transpose()).dataSync()
  return sums.every(sum => sum === 0)
}

const version = (): string => {
  const location = findPackageJSON("@jax-js/jax", import.meta.url)
  const content: unknown = location === undefined ? undefined : JSON.parse(readFileSync(location, "utf8"))
  return isRecord(content) ? String(content.version) : "unknown"
}

/** What jax-js is in this thread. `strict` is measured, not assumed. */
export const jaxBackend = (): Backend => ({
  name: "jax-js/wasm",
  version: version(),
  strict: roundsProducts(),
  threads: 1
})
