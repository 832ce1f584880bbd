//! What one invocation may use. The same limits hold on every trigger.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::ByteSize;

/// Limits of one function. Exceeding one ends that invocation only, with an error that names the limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of the whole instance, all memories together.
    pub memory: ByteSize,
    /// CPU time of the guest, not wall time: waiting is free. Measured to within one epoch tick.
    #[serde(with = "humantime_serde")]
    pub cpu: Duration,
    /// Wall time from arrival to the end of the response body.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Invocations of this function that may run at once on one node; none = only the node's slots bound it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Largest request body; more is answered 413.
    pub request_body: ByteSize,
    /// Largest response body; more cuts the connection. None = no bound but `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_body: Option<ByteSize>,
    /// Bytes of stdout and stderr kept of one invocation; the rest is counted and dropped.
    pub logs: ByteSize,
    /// Outbound requests of one invocation, in total.
    pub outbound: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Room for a JavaScript or Python engine and its heap.
            memory: ByteSize::mib(128),
            cpu: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            concurrency: None,
            request_body: ByteSize::mib(100),
            response_body: None,
            logs: ByteSize::kib(256),
            outbound: 50,
        }
    }
}

impl Limits {
    /// Checks the limits against each other and against what any node can give; the error names the key.
    pub fn check(&self) -> Result<(), String> {
        const PAGE: u64 = 64 << 10;
        let memory = self.memory.bytes();
        if !(PAGE..=4 << 30).contains(&memory) {
            return Err(format!(
                "limits.memory is {}: it must be between 64 KiB (one Wasm page) and 4 GiB",
                self.memory
            ));
        }
        let times = [("limits.cpu", self.cpu), ("limits.timeout", self.timeout)];
        for (key, time) in times {
            if time < Duration::from_millis(1) || time > Duration::from_secs(24 * 3600) {
                return Err(format!("{key} is {}: it must be between 1ms and 24h", humantime::format_duration(time)));
            }
        }
        if self.concurrency == Some(0) {
            return Err("limits.concurrency is 0: nothing could ever run; leave it out for no limit".into());
        }
        Ok(())
    }
}
