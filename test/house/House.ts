/**
 * The rules of the house as a pure function of the repository's files: their paths and their text.
 */
import { dirname, join, normalize } from "node:path/posix"

export interface House {
  /** Path from the repository's root, with forward slashes, to the file's text. */
  readonly files: ReadonlyMap<string, string>
  /** Files that may be longer than the limit, each with the reason. */
  readonly longFiles: Readonly<Record<string, string>>
}

export const maxLines = 400

/** Top imports lower. */
const folders = ["training", "compute", "node", "rpc", "actor", "transport", "store", "protocol"]
const isSource = (path: string): boolean => /^(src|apps|examples|test|bench)\/.*\.(ts|tsx|mts|js|mjs)$/.test(path)

/** The lines that are code: documentation and comments that fill a line are blanked, the numbers of lines stay. */
const codeOf = (text: string): string =>
  text
    .split("\n")
    .map(line => (/^\s*(\/\/|\/?\*)/.test(line) ? "" : line))
    .join("\n")

const importPatterns = [
  /^\s*(?:import|export)\b(?:[^"'`;()]*?\bfrom)?\s*["']([^"']+)["']/gm,
  /\bimport\(\s*["'`]([^"'`]+)["'`]\s*[,)]/g,
  /\bnew URL\(\s*["'`]([^"'`]+)["'`]\s*,\s*import\.meta\.url/g,
  /\brequire\(\s*["'`]([^"'`]+)["'`]\s*\)/g
]

/** What a module names: static, type-only and dynamic imports, re-exports, and modules loaded by their URL. */
export const importsOf = (text: string): ReadonlyArray<string> => {
  const code = codeOf(text)
  return importPatterns.flatMap(pattern => [...code.matchAll(pattern)].flatMap(match => match[1] ?? []))
}

/** What must be evaluated before a module: not what only its types need, nor a file that is handed to another thread or process. */
const evaluatedBy = (text: string): ReadonlyArray<string> => {
  const code = codeOf(text)
  const [imports = /$^/g, dynamic = /$^/g] = importPatterns
  return [...code.matchAll(imports), ...code.matchAll(dynamic)].flatMap(match =>
    /^\s*(?:import|export)\s+type\b/.test(match[0]) ? [] : (match[1] ?? [])
  )
}

const resolveImport = (from: string, specifier: string): string | undefined =>
  specifier.startsWith(".") ? normalize(join(dirname(from), specifier)) : undefined

const folderOf = (path: string): string | undefined => /^src\/([^/]+)\//.exec(path)?.[1]

const layering = (path: string, specifier: string): ReadonlyArray<string> => {
  const from = folderOf(path)
  const target = resolveImport(path, specifier)
  if (from === undefined) return []
  if (target === undefined) return /^artifice(\/|$)/.test(specifier) ? [`${path} imports its own package`] : []
  // The library's own manifest says its version.
  if (target === "package.json") return []
  const to = folderOf(target)
  if (to === undefined) return [`${path} imports ${target}, which is outside the folders of src`]
  const level = folders.indexOf(to)
  if (folders.indexOf(from) < 0 || level < 0)
    return [`${path} imports ${target}, and one of them is in no known folder`]
  return level < folders.indexOf(from) ? [`${path} imports ${target}, but ${to} is above ${from}`] : []
}

/** apps/cli, examples/mnist: a workspace sees itself and the public entry points. */
const workspaceOf = (path: string): string | undefined => /^((?:apps|examples)\/[^/]+)\//.exec(path)?.[1]

const entryPoints = (files: House["files"]): ReadonlyArray<string> => {
  const manifest = parseManifest(files.get("package.json") ?? "{}")
  return Object.keys(manifest["exports"] ?? {}).map(key => `artifice${key.slice(1)}`)
}

const publicSurface = (path: string, specifier: string, files: House["files"]): ReadonlyArray<string> => {
  const workspace = workspaceOf(path)
  if (workspace === undefined) return []
  const target = resolveImport(path, specifier)
  // A module's own package.json and build output are no other room; the source of the library is.
  if (target !== undefined && !target.startsWith(`${workspace}/`) && !target.startsWith("node_modules/")) {
    return [`${path} imports ${target}, which is outside ${workspace}: use artifice's public entry points`]
  }
  return /^artifice(\/|$)/.test(specifier) && !entryPoints(files).includes(specifier)
    ? [`${path} imports ${specifier}, which package.json does not export`]
    : []
}

const sockets = /^(?:node:)?(?:net|dgram|tls|http|https|http2)$/
const effects = /^(?:effect|@effect\/[^/]+)(?:\/|$)/

const purity = (path: string, specifier: string): ReadonlyArray<string> =>
  path.startsWith("src/protocol/") && (sockets.test(specifier) || effects.test(specifier))
    ? [`${path} imports ${specifier}: the protocol is pure code`]
    : []

const findCycles = (files: House["files"]): ReadonlyArray<string> => {
  const graph = new Map<string, ReadonlyArray<string>>()
  for (const [path, text] of files) {
    if (!isSource(path)) continue
    graph.set(
      path,
      evaluatedBy(text).flatMap(specifier => {
        const target = resolveImport(path, specifier)
        return target !== undefined && files.has(target) ? [target] : []
      })
    )
  }
  const found: Array<string> = []
  const done = new Set<string>()
  const visit = (path: string, trail: ReadonlyArray<string>): void => {
    const start = trail.indexOf(path)
    if (start >= 0) {
      found.push(`import cycle: ${[...trail.slice(start), path].join(" → ")}`)
      return
    }
    if (done.has(path)) return
    for (const target of graph.get(path) ?? []) visit(target, [...trail, path])
    done.add(path)
  }
  for (const path of graph.keys()) visit(path, [])
  return found
}

const lengths = ({ files, longFiles }: House): ReadonlyArray<string> => [
  ...[...files].flatMap(([path, text]) => {
    const lines = text.split("\n").length - 1
    return isSource(path) && !path.startsWith("test/") && lines > maxLines && !(path in longFiles)
      ? [`${path} has ${lines} lines, more than ${maxLines}: it is probably two concepts`]
      : []
  }),
  ...Object.keys(longFiles)
    .filter(path => (files.get(path)?.split("\n").length ?? 0) - 1 <= maxLines)
    .map(path => `${path} is allowed to be long and is not: take it off the list`)
]

const withoutStrings = (line: string): string =>
  line.replace(/"[^"]*"|'[^']*'|`[^`]*`|\/(?:[^/\\\n]|\\.)+\/[a-z]*/g, '""')
const anyType = /(?:[:<,|&(=]|\bas|\bextends)\s*any\b(?!\s*[(.:?])|\bany\[\]/

const anyTypes = (path: string, text: string): ReadonlyArray<string> =>
  codeOf(text)
    .split("\n")
    .flatMap((line, index) =>
      anyType.test(withoutStrings(line).replace(/\/\/.*$/, "")) ? [`${path}:${index + 1} says any`] : []
    )

const machinePath = /(?<![\w.~-])\/(?:(?:home|Users|work)\/[\w.-]+|root\/\.)|\b[A-Z]:\\\\?Users\\/
const registryHost =
  /https?:\/\/[\w.-]*(?:registry|artifactory|verdaccio|nexus)[\w.-]*(?::\d+)?\/|https?:\/\/(?:localhost|127\.0\.0\.1|10\.\d+\.\d+\.\d+)(?::\d+)?\/(?:npm|repository)/

const machineTraces = (path: string, text: string): ReadonlyArray<string> =>
  text
    .split("\n")
    .flatMap((line, index) => [
      ...(machinePath.test(line) ? [`${path}:${index + 1} names a path of one machine`] : []),
      ...(registryHost.test(line) ? [`${path}:${index + 1} names a registry's host`] : [])
    ])

type Manifest = Readonly<Record<string, Readonly<Record<string, unknown>>>>

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const parseManifest = (text: string): Manifest => {
  const parsed: unknown = JSON.parse(text)
  const sections = isRecord(parsed) ? Object.entries(parsed) : []
  return Object.fromEntries(sections.flatMap(([key, value]) => (isRecord(value) ? [[key, value]] : [])))
}

const dependencySections = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "overrides"]
const dependenciesPage = "docs/dependencies.md"

const undocumentedDependencies = (files: House["files"]): ReadonlyArray<string> => {
  const page = files.get(dependenciesPage) ?? ""
  return [...files].flatMap(([path, text]) => {
    if (!/(^|\/)package\.json$/.test(path)) return []
    const manifest = parseManifest(text)
    return dependencySections
      .flatMap(section => Object.entries(manifest[section] ?? {}))
      .filter(([, range]) => !String(range).startsWith("file:") && !String(range).startsWith("workspace:"))
      .filter(([name]) => !page.split("\n").some(line => line.includes(`\`${name}\``)))
      .map(([name]) => `${path} depends on ${name}, and ${dependenciesPage} has no line that says why`)
  })
}

/** Everything that is against the rules, one sentence each; empty when the house is in order. */
export const violations = (house: House): ReadonlyArray<string> => [
  ...[...house.files].flatMap(([path, text]) => [
    ...(isSource(path)
      ? [
          ...importsOf(text).flatMap(specifier => [
            ...layering(path, specifier),
            ...publicSurface(path, specifier, house.files),
            ...purity(path, specifier)
          ]),
          ...anyTypes(path, text)
        ]
      : []),
    ...machineTraces(path, text)
  ]),
  ...findCycles(house.files),
  ...lengths(house),
  ...undocumentedDependencies(house.files)
]
