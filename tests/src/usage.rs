//! What this process and its network namespace have used, from `/proc` (Linux).

use serde_json::{Value, json};

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of this process, in hundredths of a second.
    pub cpu: u64,
    /// Its largest resident set so far, in KiB.
    pub peak_rss: u64,
    /// UDP datagrams received in this network namespace.
    pub received: u64,
    /// UDP datagrams sent in this network namespace.
    pub sent: u64,
    /// UDP datagrams lost in this network namespace because a receive buffer was full.
    pub overflowed: u64,
}

impl Usage {
    /// The counters now; 0 for what cannot be read.
    pub fn now() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
        // proc_pid_stat(5): fields 14 and 15, counted from the state behind the name's bracket, which is field 3.
        let stat = read("/proc/self/stat");
        let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let status = read("/proc/self/status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let snmp = read("/proc/self/net/snmp");
        // The first line that begins so has the names, the second the numbers.
        let udp: Vec<u64> = snmp
            .lines()
            .filter_map(|line| line.strip_prefix("Udp:"))
            .nth(1)
            .map(|line| line.split_whitespace().map(|field| number(Some(field))).collect())
            .unwrap_or_default();
        let udp = |field: usize| udp.get(field).copied().unwrap_or_default();
        Self {
            cpu: times.map(|time| number(Some(time))).sum(),
            peak_rss: number(peak.and_then(|peak| peak.split_whitespace().next())),
            received: udp(0),
            sent: udp(3),
            overflowed: udp(4),
        }
    }

    /// As JSON, counted from `start`; the peak is absolute.
    pub fn since(self, start: Self) -> Value {
        json!({
            "cpu_ms": (self.cpu - start.cpu) * 10,
            "peak_rss_kib": self.peak_rss,
            "datagrams_in": self.received - start.received,
            "datagrams_out": self.sent - start.sent,
            "datagrams_lost": self.overflowed - start.overflowed,
        })
    }
}
