/** The bounds of one channel. They are part of the agreement between the sides: a client keeps below what its server tolerates. */

/** Calls of one channel whose handlers run at the same time; further ones wait. Bounds what one peer can make this host do. */
export const maxConcurrentCalls = 64

/**
 * Bytes of calls that a client has in flight; further calls wait at the client. A call costs the bytes of its request, and at
 * least `minCallCostBytes`, so that this one number bounds both the memory (32 MiB) and the count (512).
 */
export const callBudgetBytes = 32 * 1024 * 1024
export const minCallCostBytes = 64 * 1024

/**
 * What a server tolerates before it ends the channel: twice a client's budget, since a call counts at the server until its
 * reply has been handed to the channel, and by then the client may have begun the next one.
 */
export const maxPendingCallBytes = 2 * callBudgetBytes

/** Milliseconds a call may take under `withDeadline` unless told otherwise: several round trips of a slow line. */
export const defaultCallDeadlineMs = 30_000

/** What a call with a request of this size counts for. */
export const callCost = (requestBytes: number): number =>
  Math.min(callBudgetBytes, Math.max(minCallCostBytes, requestBytes))
