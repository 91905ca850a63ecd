import { readdirSync, statSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { clouds, inWorld } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"

const alone = trainedAlone(clouds)

const permissions = (path: string): string => (statSync(path).mode & 0o777).toString(8)

describe("A coordinator and workers of their own homes", () => {
  it(
    "train by a token each, and again without: pairing outlives the processes, in files for their owner alone",
    inWorld(async world => {
      const first = world.coordinator(["--min-workers", "2"])
      const { address } = await first.event("listening")
      await first.event("invite", () => first.all("invite").length === 2)
      const invites = first.all("invite")
      for (const { command, token } of invites)
        assert.strictEqual(command, `npx artifice worker --join ${token} ${clouds}`)
      const homes = ["one", "two"]
      // The coordinator names the module, relative to the folder that both are started in.
      const workers = homes.map((home, index) =>
        world.artifice(["worker", "--join", invites[index]?.token ?? ""], { home })
      )
      const finished = await first.finished()
      for (const worker of workers) assert.strictEqual((await worker.ended).code, 0)
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)

      for (const home of ["coordinator", ...homes].map(name => world.home(name))) {
        assert.strictEqual(permissions(home), "700")
        const files = readdirSync(home)
        assert.includeMembers(files, ["home.db", "home.key"])
        for (const file of files) assert.strictEqual(permissions(join(home, file)), "600", file)
      }

      const again = world.coordinator(["--min-workers", "2"], {}, address)
      const { peer } = await again.event("listening")
      assert.strictEqual(peer, first.all("listening")[0]?.peer)
      const returning = homes.map(home => world.artifice(["worker", "--peer", peer, clouds], { home }))
      assert.strictEqual((await again.finished()).weightsSha256, (await alone).weightsSha256)
      for (const worker of returning) assert.strictEqual((await worker.ended).code, 0)
      assert.sameMembers(
        again.all("member-joined").map(event => event.peer),
        first.all("member-joined").map(event => event.peer)
      )
    })
  )

  it(
    "take in a worker that comes in the middle: it is given the state and lanes, and the weights are the same",
    inWorld(async world => {
      const { env, release } = world.hold()
      const coordinator = world.coordinator(["--min-workers", "2"])
      await coordinator.event("invite", () => coordinator.all("invite").length === 2)
      const [one = "", other = ""] = coordinator.all("invite").map(({ token }) => token)
      const staying = world.artifice(["worker", "--join", one], { home: "staying", env })
      const killed = world.artifice(["worker", "--join", other], { home: "returning", env })
      await coordinator.event("step", ({ step }) => step >= 2)
      killed.kill("SIGKILL")
      const lost = await coordinator.event("member-lost")
      assert.strictEqual(lost.peer, killed.all("process")[0]?.peer)
      // Of the killed one's home the pairing is left: that is enough to come back.
      const { peer } = await coordinator.event("listening")
      const returning = world.artifice(["worker", "--peer", peer, clouds], { home: "returning" })
      await coordinator.event("member-joined", event => event === coordinator.all("member-joined")[2])
      release()
      // At first it only observes; when it has caught up it is given lanes.
      const shares = ({ members }: { readonly members: ReadonlyArray<{ readonly lanes: ReadonlyArray<number> }> }) =>
        members.map(({ lanes }) => lanes.length).toSorted((a, b) => a - b)
      await coordinator.event("view", view => view.view > 1 && shares(view).join() === "0,8")
      const { members } = await coordinator.event(
        "view",
        view => view.members.length === 2 && view.view > 2 && (shares(view)[0] ?? 0) > 0
      )
      assert.strictEqual(
        members.reduce((sum, { lanes }) => sum + lanes.length, 0),
        8
      )
      assert.include(
        members.map(member => member.peer),
        lost.peer
      )
      const finished = await coordinator.finished()
      assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
      assert.strictEqual(finished.members, 2)
      for (const worker of [staying, returning]) assert.strictEqual((await worker.ended).code, 0)
    })
  )

  it(
    "keep those that are more than there are lanes as spares, of which one steps in for a member that is killed",
    inWorld(async world => {
      const { env, release } = world.hold()
      const run = world.run(["--workers", "3", "--set", "lanes=2", "--set", "microBatch=32"], env)
      await run.event("step", ({ step }) => step >= 2)
      const [view] = run.all("view")
      const lanes = view?.members.map(member => member.lanes.length) ?? []
      assert.deepStrictEqual(
        lanes.toSorted((a, b) => a - b),
        [0, 1, 1]
      )
      const spare = view?.members.find(member => member.lanes.length === 0)?.peer
      const victim = run.all("process").find(({ peer, role }) => role === "worker" && peer !== spare)
      process.kill(victim?.pid ?? 0, "SIGKILL")
      await run.event("member-lost")
      release()
      const next = await run.event("view", ({ members }) => members.length === 2)
      assert.deepStrictEqual(
        next.members.map(member => member.lanes.length),
        [1, 1]
      )
      assert.include(
        next.members.map(({ peer }) => peer),
        spare ?? ""
      )
      const finished = await run.finished()
      const expected = await trainedAlone(clouds, [
        ["lanes", "2"],
        ["microBatch", "32"]
      ])
      assert.strictEqual(finished.weightsSha256, expected.weightsSha256)
    })
  )
})
