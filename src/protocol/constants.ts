/** Every number of the protocol, with its unit. The sections are those of docs/protocol.md. */

// Specification: both sides must agree on these.
export const protocolVersion = 1
export const suiteX25519 = 0x0001
export const suiteX25519MlKem768 = 0x0002
export const testSuiteFrom = 0x7f00
export const testSuiteTo = 0x7fff

export const rsaModulusBits = 3072
export const rsaPublicExponent = 65537n
export const rsaBytes = 384
export const pssSaltBytes = 32
export const peerIdBytes = 32
export const hashBytes = 32
export const nonceBytes = 32
export const shareBytes = 32
export const tagBytes = 16
export const macBytes = 32
export const cookieBytes = 32
export const gcmTagBytes = 16
export const gcmNonceBytes = 12
export const mlKemPublicBytes = 1184
export const mlKemCiphertextBytes = 1088
export const identityDocumentVersion = 1
/** 0x01, two lengths, two SubjectPublicKeyInfos of 422 bytes each. */
export const identityDocumentBytes = 849
/** §2.7: of a job, and of a ticket. */
export const jobIdBytes = 16
export const ticketIdBytes = 16

/** §2.2: a tag names a pair for one hour. */
export const tagEpochSeconds = 3600
export const tagEpochTolerance = 1

/** §2.3: largest body of each handshake frame. */
export const frameHeaderBytes = 4
export const maxHelloBytes = 2048
export const maxRetryBytes = 256
export const maxAckBytes = 4096
export const maxAuthBytes = 4096
export const maxAbortBytes = 64
export const maxOffered = 8
export const maxParametersBytes = 1024
export const cookieMinuteSeconds = 60

/** §3.1: the record layer. */
export const recordHeaderBytes = 4
export const innerHeaderBytes = 6
export const maxRecordPayloadBytes = 65_536
export const minCiphertextBytes = innerHeaderBytes + gcmTagBytes
export const maxCiphertextBytes = innerHeaderBytes + maxRecordPayloadBytes + gcmTagBytes
export const firstPrefixBytes = 16
export const unknownTotal = 2n ** 64n - 1n
export const maxStreamId = 2 ** 31
export const maxStreamNameBytes = 64
export const maxReasonBytes = 256
export const pingBytes = 8
/** §3.3: the sender must change keys before either bound; fewer records than the third between two changes is an attack. */
export const maxRecordsPerKey = 2 ** 24
export const maxBytesPerKey = 2 ** 36
export const minRecordsPerKeyUpdate = 16

/** §5: the database at rest. */
export const databaseVersion = 1
export const databaseHeaderBytes = 120
export const databaseSaltBytes = 16
export const databaseIdBytes = 16
export const databaseFileSaltBytes = 32
export const databaseCheckBytes = 16
export const databaseFrameHeadBytes = 52
export const maxDatabaseFrameBytes = 4 * 1024 * 1024
export const maxDatabaseKeyBytes = 512
export const maxDatabaseValueBytes = 1024 * 1024
export const maxDatabaseEntries = 1_000_000
/** Above these a file is refused before its passphrase is tried: who wrote it may want to take the machine's memory or time. */
export const maxScryptCost = 2 ** 20
export const maxScryptBlockSize = 16
export const maxArgon2Passes = 10
export const maxDerivationParallelism = 4
export const maxDerivationMemoryBytes = 1024 * 1024 * 1024

// Implementation: defaults and bounds of this host.
/** §2.5: what this side is ready to receive, when nothing else is configured. */
export const defaultMaxMessageBytes = 16 * 1024 * 1024
export const defaultStreamWindowBytes = 1024 * 1024
export const defaultConnectionWindowBytes = 16 * 1024 * 1024
export const defaultMaxStreams = 64
export const maxAdminMessageBytes = 1024 * 1024
export const maxUnreadAcks = 1024
/** The least a peer may announce; smaller windows cannot carry one message prefix. */
export const minRecordLimitBytes = 256
/** A window beyond this is refused as nonsense: it is no bound at all. */
export const maxWindowBytes = 2 ** 40

/** §2.6: how long a person may take to compare fingerprints. */
export const confirmTimeoutMs = 120_000
/** §2.6: a pair key of this age is rotated. */
export const pairKeyAgeMs = 30 * 24 * 3_600_000

/** §2.9 */
export const handshakeDeadlineMs = 10_000
export const helloDeadlineMs = 3_000
export const verifyDeadlineMs = 10_000
export const maxUnverifiedSockets = 1_024
export const maxUnverifiedSocketBytes = 4_096
export const maxHandshakeSlots = 64
export const maxHandshakeSlotsPerPeer = 4
export const maxHandshakeBufferBytes = 8 * 1024
export const maxRsaOperations = 2
export const maxRsaQueue = 64
export const dialBackoffMs = 500
export const maxDialBackoffMs = 60_000
export const replayCacheEntries = 65_536
export const replayCacheEntriesPerPeer = 256

/** §3.5 */
export const pingAfterMs = 15_000
export const deadAfterMs = 45_000
export const goodbyeWaitMs = 5_000
export const maxSocketBufferBytes = 256 * 1024
export const maxSessionsPerPeer = 1
export const simultaneousOpenMs = 10_000
/** §2.9: the side that dialled replaces a session of this age; its streams may end within the second. */
export const sessionAgeMs = 24 * 3_600_000
export const sessionDrainMs = 3_600_000

/** §5: what a new database is made with, and how large the pieces of a snapshot are. */
export const defaultScryptCost = 2 ** 17
export const defaultScryptBlockSize = 8
export const defaultArgon2MemoryBytes = 64 * 1024 * 1024
export const defaultArgon2Passes = 3
export const defaultDerivationParallelism = 1
export const databaseBlockBytes = 64 * 1024
/** The log is folded into a new snapshot when it is longer than the snapshot, and than this. */
export const minDatabaseLogBytes = 256 * 1024

/** §2.8: discovery on the local network. */
export const beaconPort = 27_187
export const beaconBytes = 39
export const beaconNonceBytes = 16
export const beaconMacBytes = 16
export const discoveryKeyBytes = 32
export const beaconEpochSeconds = 60
export const beaconEpochTolerance = 1
export const beaconIntervalMs = 5_000
export const maxBeaconsPerSecond = 10
export const maxBeaconAddresses = 256
export const beaconRetryMs = 60_000
