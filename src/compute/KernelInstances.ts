/**
 * Importing this module makes the thread keep one WebAssembly instance per kernel of jax-js.
 *
 * jax-js makes an instance for every call of a kernel, a tenth of the time of a small model's step. Its kernels have no state but the
 * memory that they import, so the first instance serves all calls. Told by what they are: a module with the one export `kernel` that
 * imports nothing but `env.memory`. All other modules are instantiated as ever.
 */
interface Memory {
  readonly buffer: ArrayBufferLike
}

type Imports = { readonly env?: { readonly memory?: Memory } }

declare const WebAssembly: {
  Instance: new (module: object, imports?: Imports) => object
  readonly Module: {
    readonly exports: (module: object) => ReadonlyArray<{ readonly name: string; readonly kind: string }>
    readonly imports: (module: object) => ReadonlyArray<{ readonly module: string; readonly kind: string }>
  }
}

const NativeInstance = WebAssembly.Instance

const isKernel = (module: object): boolean => {
  const [exported, ...otherExports] = WebAssembly.Module.exports(module)
  const [imported, ...otherImports] = WebAssembly.Module.imports(module)
  return (
    exported?.name === "kernel" &&
    exported.kind === "function" &&
    otherExports.length === 0 &&
    imported?.module === "env" &&
    imported.kind === "memory" &&
    otherImports.length === 0
  )
}

const kernels = new WeakMap<object, { readonly memory: Memory; readonly instance: object }>()

WebAssembly.Instance = new Proxy(NativeInstance, {
  construct(target, [module, imports]: [object, Imports | undefined]) {
    const memory = imports?.env?.memory
    const known = kernels.get(module)
    if (known !== undefined && known.memory === memory) return known.instance
    const instance = new target(module, imports)
    if (memory !== undefined && isKernel(module)) kernels.set(module, { memory, instance })
    return instance
  }
})
