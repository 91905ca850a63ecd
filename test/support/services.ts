import { spawnSync } from "node:child_process"
import { accessSync, constants, existsSync } from "node:fs"
import { delimiter, join } from "node:path"

/** Programs that tests run beside their own: found on this machine, or installed by whoever starts the tests as root on Debian. */
export interface Service {
  readonly name: string
  /** The first that is found is used. */
  readonly commands: ReadonlyArray<string>
  readonly debianPackage: string
}

export const redisService: Service = {
  name: "a Redis server",
  commands: ["redis-server", "valkey-server"],
  debianPackage: "redis-server"
}

export const chromiumService: Service = {
  name: "Chromium",
  commands: ["chromium", "chromium-browser", "google-chrome"],
  debianPackage: "chromium"
}

export const pythonService: Service = { name: "Python", commands: ["python3"], debianPackage: "python3" }

/** `unshare` and `nsenter`, which namespaces need beside these, are part of every Debian. */
export const networkService: Service = { name: "the ip command", commands: ["ip"], debianPackage: "iproute2" }

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** The path of a service's program, or undefined. */
export const commandOf = ({ commands }: Service): string | undefined =>
  commands
    .flatMap(command => (process.env["PATH"] ?? "").split(delimiter).map(folder => join(folder, command)))
    .find(isExecutable)

/** Why a service cannot be used here, and how to get it; undefined where it can. */
export const missing = (service: Service): string | undefined =>
  commandOf(service) === undefined
    ? `this machine has no ${service.commands.join(" and no ")}; ${service.name} comes with: apt-get install ${service.debianPackage}`
    : undefined

/** Called before a test that needs a service: skips it with the reason, or fails where everything is required. */
export const need = (service: Service, context: { readonly skip: (reason: string) => void }): void => {
  const reason = missing(service)
  if (reason === undefined) return
  if (process.env["ARTIFICE_REQUIRE_ALL"] === "1") throw new Error(reason)
  context.skip(reason)
}

const say = (line: string): void => void process.stdout.write(`${line}\n`)

const canInstall = (): boolean =>
  process.env["ARTIFICE_NO_INSTALL"] !== "1" && process.getuid?.() === 0 && existsSync("/etc/debian_version")

const aptGet = (...args: ReadonlyArray<string>): boolean =>
  spawnSync("apt-get", args, { stdio: "ignore", env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } }).status ===
  0

const install = ({ name, debianPackage }: Service): void => {
  say(`Installing ${name} for the tests: apt-get install ${debianPackage} (ARTIFICE_NO_INSTALL=1 forbids it)`)
  const args = ["install", "--yes", "--no-install-recommends", debianPackage]
  if (aptGet(...args)) return
  if (!aptGet("update") || !aptGet(...args)) say(`apt-get could not install ${debianPackage}`)
}

/** For vitest's `globalSetup`: once, before all tests. */
export default function setup(): void {
  for (const service of [redisService, chromiumService, pythonService, networkService]) {
    if (commandOf(service) === undefined && canInstall()) install(service)
    const reason = missing(service)
    if (reason !== undefined) say(`Tests that need ${service.name} are skipped: ${reason}`)
  }
}
