import { existsSync } from "node:fs"
import { createServer } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { isPeerId } from "../../src/protocol/Identity.ts"
import { clouds, inWorld, jobFile, reissued } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const nobody = "ab".repeat(32)

/** A port of this machine at which nobody listens. */
const deadAddress = (): Promise<string> =>
  new Promise(resolve => {
    const server = createServer()
    server.listen({ host: "127.0.0.1", port: 0 }, () => {
      const bound = server.address()
      server.close(() => resolve(`127.0.0.1:${typeof bound === "object" && bound !== null ? bound.port : 0}`))
    })
  })

describe("A worker that is not welcome", () => {
  it(
    "exits with 3 and says why, and the job of those who are goes on to the same weights",
    inWorld(async world => {
      const coordinator = world.coordinator(["--min-workers", "5"])
      await coordinator.event("invite", () => coordinator.all("invite").length === 5)
      const tokens = coordinator.all("invite").map(({ token }) => token)
      const [first = "", second = "", third = "", fourth = "", fifth = ""] = tokens
      assert.lengthOf(new Set(tokens), 5)
      const worker = (home: string, ...args: ReadonlyArray<string>) => world.artifice(["worker", ...args], { home })

      // One that is welcome uses the first token up.
      const welcome = worker("welcome", "--join", first)
      await coordinator.event("member-joined")

      if (!isPeerId(nobody)) return assert.fail()
      const differences = [
        { job: "otherMicroBatch", token: second, says: "microBatch is 9 here and 8 at the coordinator" },
        { job: "otherSeed", token: third, says: "seed is 8 here and 7 at the coordinator" },
        { job: "otherModel", token: fourth, says: "model.parameters is 1430 here and 1408 at the coordinator" },
        { job: "otherLoss", token: fifth, says: "model.program.sha256 is [0-9a-f]{64} here and" }
      ]
      const refusals = [
        { code: "TOKEN_USED", says: /has been used: it pairs one machine, once/, given: ["--join", first] },
        {
          code: "TOKEN_EXPIRED",
          says: /the token ran out at 2001/,
          given: ["--join", reissued(second, { expiresAt: 1_000_000_000 })]
        },
        {
          code: "REFUSED",
          says: /another machine than the one that made this token/,
          given: ["--join", reissued(second, { peerId: nobody })]
        },
        { code: "NOT_PAIRED", says: /is not paired with a peer abab/, given: ["--peer", nobody] },
        ...differences.map(({ job, token, says }) => ({
          code: "JOB_MISMATCH",
          says: new RegExp(says),
          given: ["--join", token, jobFile(job)]
        }))
      ].map(({ given, ...refusal }, index) => ({ ...refusal, worker: worker(`refused-${index}`, ...given) }))
      for (const { worker, code, says } of refusals) assert.match((await worker.failure(3, code)).line, says)

      // Refused for their jobs, these four are paired all the same: with the right module they are let in.
      const peer = coordinator.all("process")[0]?.peer ?? ""
      const mended = [4, 5, 6, 7].map(index => worker(`refused-${index}`, "--peer", peer, clouds))
      const finished = await coordinator.finished()
      for (const each of [welcome, ...mended]) assert.strictEqual((await each.ended).code, 0)
      assert.strictEqual(finished.weightsSha256, (await trainedAlone(clouds)).weightsSha256)
      assert.strictEqual(finished.members, 5)
      assert.lengthOf(coordinator.all("member-lost"), 0)
    })
  )

  it(
    "exits with 2 for a token that is none, before it has an identity and before it dials anybody",
    inWorld(async world => {
      const worker = world.artifice(["worker", "--join", "artf1.AAAABBBBCCCC"], { home: "fresh" })
      const { message } = await worker.failure(2, "BAD_TOKEN")
      assert.match(message, /damaged/)
      assert.isFalse(existsSync(world.home("fresh")))
      assert.lengthOf(worker.all("process"), 0)
    })
  )

  it(
    "exits with 1 where nobody listens",
    inWorld(async world => {
      const coordinator = world.coordinator()
      const { token } = await coordinator.event("invite")
      const address = await deadAddress()
      const worker = world.artifice(["worker", "--join", reissued(token, { addresses: [address] })])
      const { message, line } = await worker.failure(1, "UNREACHABLE")
      assert.include(message, address)
      assert.match(line, /Check that the other machine is running/)
      coordinator.kill("SIGTERM")
      assert.strictEqual((await coordinator.ended).code, 130)
    })
  )
})
