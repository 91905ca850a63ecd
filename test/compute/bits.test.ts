import { assert, describe, it } from "@effect/vitest"
import { trainBits } from "../../bench/bits.ts"

describe("The bits of training", () => {
  it("are the same on every machine, under every Node", async () => {
    assert.deepStrictEqual(await trainBits(), {
      gradientSha256: "39829d23bf7bcab57d39888f42bd32561f420622c83941b74fb9d369980bd06f",
      weightsSha256: "8fbdedf68e9fcd4859c810dfa19fe4e16d82691fd01a04117594857dd76a698d"
    })
  })
})
