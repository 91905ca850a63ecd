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
export { Strategy, type StrategyOptions } from "./training/Strategy.ts"
export { JobLoadError, TrainingJob, type TrainingJobOptions } from "./training/TrainingJob.ts"

// Who computes it.
export { coordinate, type CoordinateOptions } from "./training/Coordinator.ts"
export { CoordinatorError } from "./training/CoordinatorError.ts"
export { work, WorkerError, type JobDescription, type WorkOptions } from "./training/Worker.ts"
export * from "./training/JobEvent.ts"

// Peers and what they say to each other.
export { PeerNode, type PeerNodeOptions } from "./node/PeerNode.ts"
export { PeerLost, type AnyActorRef, type RemoteActorError, type RemoteRef } from "./node/RemoteActor.ts"
export { defaultTensorLimits, type PutTensor, type TensorLimits, type Tensors } from "./node/TensorExchange.ts"
export * from "./node/TensorRef.ts"
export * as Cluster from "./node/Cluster.ts"
export { decodeInvite, type Invite } from "./protocol/Invite.ts"
export { ProtocolError, type ProtocolErrorCode } from "./protocol/ProtocolError.ts"
export * as RpcPeer from "./rpc/RpcPeer.ts"
export { PeerStore } from "./store/PeerStore.ts"
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
export * as Supervisor from "./actor/Supervisor.ts"
