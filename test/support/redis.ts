import { spawn, type ChildProcess } from "node:child_process"
import { randomBytes } from "node:crypto"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { Effect, type Scope } from "effect"
import { Redis } from "ioredis"
import { commandOf, need, redisService } from "./services.ts"

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
}

/** A real Redis of its own, on loopback, in a temporary folder; it writes every change to its file and may be killed and started again. */
export class RedisServer {
  readonly folder: string
  readonly port: number
  readonly #args: ReadonlyArray<string>
  #child: ChildProcess | undefined

  private constructor(folder: string, port: number, args: ReadonlyArray<string>) {
    this.folder = folder
    this.port = port
    this.#args = args
  }

  /** Started, and gone with the scope. With `tls` the port is one for TLS. */
  static readonly make = (
    options: { readonly args?: ReadonlyArray<string>; readonly tls?: ReadonlyArray<string> } = {}
  ): Effect.Effect<RedisServer, never, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.promise(async () => {
        const folder = mkdtempSync(join(tmpdir(), "artifice-redis-"))
        // Another program may take the port before Redis does.
        for (let attempt = 1; ; attempt++) {
          const port = await freePort()
          const ports = options.tls ? ["--port", "0", "--tls-port", `${port}`, ...options.tls] : ["--port", `${port}`]
          const server = new RedisServer(folder, port, [...ports, ...(options.args ?? [])])
          try {
            await server.start()
            return server
          } catch (error) {
            if (attempt < 5) continue
            rmSync(folder, { recursive: true })
            throw error
          }
        }
      }),
      server =>
        Effect.promise(async () => {
          await server.kill("SIGKILL")
          rmSync(server.folder, { recursive: true })
        })
    )

  get url(): string {
    return `redis://127.0.0.1:${this.port}`
  }

  async start(): Promise<void> {
    const command = commandOf(redisService)
    if (command === undefined) throw new Error("there is no Redis server")
    const where = ["--bind", "127.0.0.1", "--dir", this.folder]
    const how = ["--appendonly", "yes", "--save", "", "--daemonize", "no"]
    const child = spawn(command, [...where, ...how, ...this.#args], { stdio: ["ignore", "pipe", "inherit"] })
    this.#child = child
    const lines: Array<string> = []
    await new Promise<void>((resolve, reject) => {
      createInterface(child.stdout).on("line", line => {
        lines.push(line)
        if (line.includes("Ready to accept connections")) resolve()
      })
      child.on("exit", () => reject(new Error(`Redis ended: ${lines.join("\n")}`)))
    })
  }

  async kill(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, "exit")
  }

  /** Stands still, as behind a line that takes packets and gives none. */
  suspend(): void {
    this.#child?.kill("SIGSTOP")
  }

  resume(): void {
    this.#child?.kill("SIGCONT")
  }
}

const deleteKeys = async (url: string, prefix: string): Promise<void> => {
  const redis = new Redis(url)
  for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1_000 })) {
    if (Array.isArray(keys) && keys.length > 0) await redis.del(keys)
  }
  await redis.quit()
}

/** Called before a test that needs any Redis: the one that REDIS_URL names, or one of its own. Skips it, or fails it, where there is neither. */
export const needRedis = (context: { readonly skip: (reason: string) => void }): void => {
  if (process.env["REDIS_URL"] === undefined) need(redisService, context)
}

/** The Redis that REDIS_URL names, or one of its own; with a prefix that no other test has. */
export const anyRedis: Effect.Effect<{ readonly url: string; readonly prefix: string }, never, Scope.Scope> =
  Effect.suspend(() => {
    const prefix = `artifice-test-${randomBytes(6).toString("hex")}`
    const url = process.env["REDIS_URL"]
    return url === undefined
      ? Effect.map(RedisServer.make(), server => ({ url: server.url, prefix }))
      : Effect.acquireRelease(Effect.succeed({ url, prefix }), () => Effect.promise(() => deleteKeys(url, prefix)))
  })
