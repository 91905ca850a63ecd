import { registerHooks, type ModuleHooks } from "node:module"

/**
 * Job modules lie anywhere on disk, often where no `node_modules` is near. Their imports of this package and of jax-js
 * mean the copies that are running: two copies would not recognise each other's arrays.
 */
const provided = /^(?:artifice|@jax-js\/jax)(?:\/|$)/

/** From now on, imports in this thread resolve what this package provides to its own copy; until `deregister` is called. */
export const provideToJobModules = (): ModuleHooks =>
  registerHooks({
    resolve: (specifier, context, next) =>
      next(specifier, provided.test(specifier) ? { ...context, parentURL: import.meta.url } : context)
  })
