/** Every number of SLLP, with its unit. The sections are those of docs/protocol/sllp.md. */

// Specification: both sides must agree on these.
/** §4.1 */
export const cidBytes = 8
/** §4.2: flags, connection id, packet number. */
export const datagramHeaderBytes = 17
export const datagramOverheadBytes = 33
export const fixedFlag = 0x40
export const keyPhaseFlag = 0x04
export const replayWindowDatagrams = 2_048
export const datagramsPerKey = 2 ** 23
export const keyAgeMs = 3_600_000
/** A peer that acknowledges nothing of a phase holds its sender in it; from here on the key is worn out. */
export const maxDatagramsPerKey = 2 ** 24
/** A packet number beyond what a double counts exactly does not exist. */
export const maxPacketNumber = 2 ** 52
export const maxFailedOpens = 2 ** 32
/** The previous key is kept for so many PTOs. */
export const keptKeyPtos = 3
/** §4.3 */
export const chunkHeaderBytes = 21
export const maxAckRanges = 32
export const ackDelayUnitsPerMs = 1_000
export const pathDataBytes = 8
export const maxCloseReasonBytes = 256
export const maxMessageId = 2 ** 32 - 2
export const defaultMaxSllpMessageBytes = 64 * 1024 * 1024
export const maxSllpMessageBytes = 2 ** 32
export const maxChannels = 256
/** §4.4: what the sender of a reliable channel may have under way beyond one message of the largest size. */
export const reliableSpareBytes = 4 * 1024 * 1024
/** What a message costs of a window or of the memory budget beside its bytes: about what its objects take. */
export const messageOverheadBytes = 1_024
export const maxAckDelayMs = 25

// Implementation: defaults and bounds of this host.
/** §4.3 */
export const blockBytes = 64 * 1024
export const maxIncompleteMessages = 8
/** Separate ranges of one message: so many, and one for every so many bytes of it, but no more than the third. */
export const freeRanges = 64
export const bytesPerRange = 512
export const maxRanges = 16_384
export const defaultMemoryBudgetBytes = 128 * 1024 * 1024
/** §4.4 */
export const defaultMaxLagMs = 100
export const maxCompleteSuccessors = 4
export const maxReadyMessages = 16
export const defaultSendQueueBytes = 4 * 1024 * 1024
export const maxQueuedMessages = 4_096
export const maxPendingEvents = 1_024
/** §4.5: RFC 9002, appendix A.2 and B.1. */
export const packetThreshold = 3
export const timeThreshold = 9 / 8
export const timerGranularityMs = 1
export const defaultInitialRttMs = 333
export const initialWindowDatagrams = 10
export const initialWindowBytes = 14_720
export const minimumWindowDatagrams = 2
export const lossReduction = 0.5
export const persistentCongestionPtos = 3
/** What is not from the RFC: bounds of memory and of silence. */
export const maxTrackedDatagrams = 16_384
export const maxPtoMs = 3_000
export const pacingGain = 1.25
export const burstDatagrams = 10
export const burstMs = 2
export const datagramsPerPoll = 64
/** Ack-eliciting datagrams that may wait for an ACK to be sent. */
export const ackEvery = 2
export const baseDatagramBytes = 1_200
export const largestDatagramBytes = 65_507
export const mtuProbes = 3
export const maxLostMtuProbes = 6
export const mtuRetryMs = 600_000
export const blackHolePtos = 3
/** Datagrams above the base size that are lost one after another, while smaller ones arrive. */
export const blackHoleLosses = 10
export const amplificationFactor = 3
export const maxPathChallenges = 3
/** §4.6 */
export const closeDatagrams = 3
export const defaultIdleMs = 30_000
export const defaultKeepAliveMs = 10_000
