// The MNIST example with the direct exchange.
import mnist from "../../examples/mnist/job.ts"
import { Strategy, TrainingJob } from "../../src/index.ts"

export default TrainingJob.make({ ...mnist, strategy: Strategy.allReduce() })
