/** Artifice: train models on several machines that do not trust the network between them. */

// What is trained, and how.
export {
  Dataset,
  DatasetError,
  type Batch,
  type BatchArray,
  type LoadedDataset,
  type Split
} from "./compute/Dataset.ts"
export { lax, nn, np, random, type Tensor } from "./compute/Jax.ts"
export { JaxModel, type BatchTensors, type JaxModelDefinition, type ParameterTree } from "./compute/JaxModel.ts"
export {
  ModelError,
  type Backend,
  type CompiledModel,
  type Evaluation,
  type Leaf,
  type Model
} from "./compute/Model.ts"
export { Optimizer, type OptimizerOptions } from "./compute/Optimizer.ts"
export { JobOptionError } from "./compute/Options.ts"
export { ComputeCancelled, ComputeError, ComputeThread } from "./compute/ComputeThread.ts"
export { gradientOf, type HoledGradient } from "./training/HoledGradient.ts"
export { Strategy, type StrategyOptions } from "./training/Strategy.ts"
export { JobLoadError, TrainingJob, type CheckpointOptions, type TrainingJobOptions } from "./training/TrainingJob.ts"

// Who computes it.
export { coordinate, type CoordinateOptions } from "./training/Coordinator.ts"
export { CoordinatorError } from "./training/CoordinatorError.ts"
export { work, WorkerError, type JobDescription, type WorkOptions } from "./training/Worker.ts"
export * from "./training/JobEvent.ts"

// What outlives a process: work to be done, and the state of a job.
export {
  itemStates,
  jobQueue,
  LeaseLost,
  QueuedJob,
  TermOver,
  WorkQueue,
  WorkQueueError,
  type ItemState,
  type ItemStatus,
  type Lease,
  type NamedQueue,
  type QueueDefinition,
  type TakeOptions,
  type WorkItem
} from "./store/WorkQueue.ts"
export { WorkQueueMemory, type MemoryOptions } from "./store/WorkQueueMemory.ts"
export { WorkQueueRedis, type RedisLayerOptions } from "./store/WorkQueueRedis.ts"
export {
  Checkpoints,
  defaultCheckpointFolder,
  exportSafetensors,
  loadCheckpoint,
  type CheckpointName,
  type LoadedCheckpoint,
  type SavedCheckpoint,
  type SkippedCheckpoint
} from "./training/Checkpoint.ts"
export { CheckpointError } from "./training/CheckpointError.ts"
export type { CheckpointState } from "./training/CheckpointFiles.ts"

// Peers and what they say to each other.
export { PeerNode, type PeerNodeOptions } from "./node/PeerNode.ts"
export { IntroductionError, type Introduction } from "./node/Introductions.ts"
export type { InviteOptions } from "./node/Invitations.ts"
export type { Confirm, Guest } from "./node/Pairing.ts"
export type { RelayStatus } from "./node/Relay.ts"
export {
  PeerLost,
  type AnyActorRef,
  type OutOfSight,
  type RemoteActorError,
  type RemoteRef
} from "./node/RemoteActor.ts"
export { SllpClosed, SllpRefused, type SllpError, type SllpLink, type SllpNotice } from "./node/SllpLink.ts"
export { SllpStreamerProtocol } from "./node/SllpStreamer.ts"
export type { SllpEndOptions, SllpLimits, SllpOpenOptions, SllpServeOptions, SllpStreams } from "./node/SllpStreams.ts"
export {
  zeroFilled,
  type SllpChannelOptions,
  type SllpCloseName,
  type SllpMessage,
  type SllpMode,
  type SllpPiece,
  type SllpStatistics
} from "./protocol/sllp/SllpAssociation.ts"
export { defaultTensorLimits, type PutTensor, type TensorLimits, type Tensors } from "./node/TensorExchange.ts"
export * from "./node/TensorRef.ts"
export * as Cluster from "./node/Cluster.ts"
export { decodeInvite, inviteFlags, type Invite } from "./protocol/Invite.ts"
export { ProtocolError, type ProtocolErrorCode } from "./protocol/ProtocolError.ts"
export * as RpcPeer from "./rpc/RpcPeer.ts"
export * as HashDatabase from "./store/HashDatabase.ts"
export { PeerStore, type PeerRecord } from "./store/PeerStore.ts"
export { Cryptography } from "./transport/Cryptography.ts"
export { peerList, type PeerList } from "./transport/Handshakes.ts"
export { formatAddress, Network, NetworkError, parseAddress, type Address } from "./transport/Network.ts"
export * as NetworkTcp from "./transport/NetworkTcp.ts"
export type { Session } from "./transport/Session.ts"
export { SessionError } from "./transport/SessionError.ts"
export * from "./identity.ts"

// Actors.
export * as Actor from "./actor/Actor.ts"
export * from "./actor/ActorError.ts"
export type { ActorRef } from "./actor/ActorRef.ts"
export type { Timers } from "./actor/Timers.ts"
export * as Supervisor from "./actor/Supervisor.ts"
