import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    pool: "forks",
    globalSetup: ["test/support/services.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "rooms",
          include: ["test/**/*.test.ts"],
          exclude: ["test/system/**"],
          sequence: { groupOrder: 0 }
        }
      },
      {
        // Real processes: side by side they would starve each other, so one file runs after another, and after all else.
        extends: true,
        test: {
          name: "system",
          include: ["test/system/**/*.test.ts"],
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 }
        }
      }
    ]
  }
})
