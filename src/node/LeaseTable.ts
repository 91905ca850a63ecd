/** Who of a cluster runs what, as leases that run out: plain and synchronous, told the time in milliseconds by its callers. */

export interface LeaseOptions {
  /** How long a lease, and a runner's place in the list, last unless renewed. The same as the runners' `shardLockExpiration`. */
  readonly expirationMs: number
  /**
   * After its start the table grants nothing new for so long, and believes what runners say they hold: an earlier table may have granted it.
   * Default `expirationMs`. 0 only for a cluster that has never run.
   */
  readonly graceMs?: number
  /** Default 1024. */
  readonly maxRunners?: number
}

interface Runner {
  readonly description: string
  readonly machineId: number
  healthy: boolean
  expiresAt: number
}

interface Lease {
  readonly holder: string
  expiresAt: number
}

/** Snowflake ids have ten bits for the machine. */
export const maxMachineIds = 1024

/**
 * At any time at most one runner holds a shard: it is granted to another only when it was given back, or when its lease has run out, by which
 * time its holder, whose clock began before the request was sent, has stopped by itself.
 */
export class LeaseTable {
  readonly #expirationMs: number
  readonly #graceUntil: number
  readonly #maxRunners: number
  readonly #runners = new Map<string, Runner>()
  readonly #leases = new Map<string, Lease>()

  constructor({ expirationMs, graceMs = expirationMs, maxRunners = maxMachineIds }: LeaseOptions, now: number) {
    this.#expirationMs = expirationMs
    this.#graceUntil = now + graceMs
    this.#maxRunners = Math.min(maxRunners, maxMachineIds)
  }

  /** Puts a runner on the list; gives its machine id, or undefined where the list is full. */
  register(address: string, description: string, healthy: boolean, now: number): number | undefined {
    this.#expire(now)
    const machineId = this.#runners.get(address)?.machineId ?? this.#freeMachineId()
    if (machineId === undefined) return undefined
    this.#runners.set(address, { description, machineId, healthy, expiresAt: now + this.#expirationMs })
    return machineId
  }

  #freeMachineId(): number | undefined {
    if (this.#runners.size >= this.#maxRunners) return undefined
    const taken = new Set(Array.from(this.#runners.values(), ({ machineId }) => machineId))
    for (let id = 0; id < maxMachineIds; id++) if (!taken.has(id)) return id
    return undefined
  }

  /** Takes a runner off the list. Its leases stay: it may still be stopping what it runs. */
  unregister(address: string): void {
    this.#runners.delete(address)
  }

  runners(now: number): ReadonlyArray<{ readonly description: string; readonly healthy: boolean }> {
    this.#expire(now)
    return Array.from(this.#runners.values(), ({ description, healthy }) => ({ description, healthy }))
  }

  setHealth(address: string, healthy: boolean): void {
    const runner = this.#runners.get(address)
    if (runner !== undefined) runner.healthy = healthy
  }

  /** Grants those of the shards that nobody else holds to a runner on the list. */
  acquire(address: string, shards: ReadonlyArray<string>, now: number): ReadonlyArray<string> {
    this.#expire(now)
    if (!this.#runners.has(address) || now < this.#graceUntil) return []
    return shards.filter(shard => this.#renew(address, shard, now, true))
  }

  /** Renews a runner's place on the list and its leases; gives those of the shards that it holds. */
  refresh(address: string, shards: ReadonlyArray<string>, now: number): ReadonlyArray<string> {
    this.#expire(now)
    const runner = this.#runners.get(address)
    if (runner !== undefined) runner.expiresAt = now + this.#expirationMs
    return shards.filter(shard => this.#renew(address, shard, now, now < this.#graceUntil))
  }

  #renew(address: string, shard: string, now: number, grant: boolean): boolean {
    const lease = this.#leases.get(shard)
    if (lease === undefined ? !grant : lease.holder !== address) return false
    this.#leases.set(shard, { holder: address, expiresAt: now + this.#expirationMs })
    return true
  }

  release(address: string, shard: string): void {
    if (this.#leases.get(shard)?.holder === address) this.#leases.delete(shard)
  }

  releaseAll(address: string): void {
    for (const [shard, { holder }] of this.#leases) if (holder === address) this.#leases.delete(shard)
  }

  #expire(now: number): void {
    for (const [address, { expiresAt }] of this.#runners) if (expiresAt <= now) this.#runners.delete(address)
    for (const [shard, { expiresAt }] of this.#leases) if (expiresAt <= now) this.#leases.delete(shard)
  }
}
