import { describe, expect, it } from "vitest"
import { Mailbox, type Overflow } from "../../src/actor/Mailbox.ts"

const filled = (overflow: Overflow, capacity = 2) => {
  const dropped: Array<number> = []
  const mailbox = new Mailbox<number>(capacity, overflow, message => dropped.push(message))
  for (let i = 1; i <= capacity; i++) expect(mailbox.offer(i)).toBe("accepted")
  const takeAll = () => {
    const taken: Array<number> = []
    for (let message = mailbox.take(); message !== undefined; message = mailbox.take()) taken.push(message)
    return taken
  }
  return { mailbox, dropped, takeAll }
}

describe("a mailbox", () => {
  it("gives messages in the order they came, across refills", () => {
    const { mailbox, takeAll } = filled("fail", 3)
    expect(mailbox.take()).toBe(1)
    expect(mailbox.offer(4)).toBe("accepted")
    expect(mailbox.size).toBe(3)
    expect(takeAll()).toEqual([2, 3, 4])
    expect(mailbox.size).toBe(0)
  })

  it.each<[Overflow, string, Array<number>, Array<number>]>([
    ["suspend", "full", [1, 2], []],
    ["fail", "full", [1, 2], []],
    ["dropNewest", "accepted", [1, 2], [3]],
    ["dropOldest", "accepted", [2, 3], [1]]
  ])("when full under %s answers %s", (overflow, answer, kept, lost) => {
    const { mailbox, dropped, takeAll } = filled(overflow)
    expect(mailbox.offer(3)).toBe(answer)
    expect(mailbox.size).toBe(2)
    expect(takeAll()).toEqual(kept)
    expect(dropped).toEqual(lost)
  })

  it("lets suspended senders in one by one, in order, and forgets those who left the line", () => {
    const { mailbox, takeAll } = filled("suspend")
    const accepted: Array<number> = []
    mailbox.wait(3, () => accepted.push(3))
    const leave = mailbox.wait(4, () => accepted.push(4))
    mailbox.wait(5, () => accepted.push(5))
    leave()
    expect(mailbox.take()).toBe(1)
    expect(accepted).toEqual([3])
    expect(mailbox.offer(6)).toBe("full")
    expect(takeAll()).toEqual([2, 3, 5])
    expect(accepted).toEqual([3, 5])
  })

  it("when closed refuses new messages, returns those in line, and still gives those inside", () => {
    const { mailbox, takeAll } = filled("suspend")
    mailbox.wait(3, () => {})
    expect(mailbox.close()).toEqual([3])
    expect(mailbox.offer(4)).toBe("closed")
    expect(takeAll()).toEqual([1, 2])
  })

  it("wakes its reader once for a burst", () => {
    const mailbox = new Mailbox<number>(10, "fail", () => {})
    let wakes = 0
    mailbox.onArrival = () => wakes++
    mailbox.offer(1)
    mailbox.offer(2)
    expect(wakes).toBe(1)
  })

  it.each([0, -1, 1.5, NaN])("cannot have a capacity of %d", capacity => {
    expect(() => new Mailbox(capacity, "fail", () => {})).toThrow(RangeError)
  })
})
