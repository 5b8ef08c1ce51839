//! The link of the lab: a hub in user space between TAP devices, one for each machine, that treats each copy of a frame
//! badly on its way to each receiver, as `tc netem` on every port of a bridge would. Not every kernel has netem.
//!
//! `mdns-lab link` takes commands, one a line, and answers each with a JSON line.
//!
//! | command | does |
//! |---|---|
//! | `port NAME NETNS` | a new port, whose other end is `eth0` in that namespace |
//! | `faults LOSS DUPLICATES DELAY JITTER` | per cent, per cent, milliseconds, milliseconds either way |
//! | `side NAME NUMBER` | puts a port on another side of a partition; all begin on side 0 |
//! | `count` | what was sent since the start |

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::BufRead;
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::{Failure, print};

/// What befalls a frame on its way to one receiver.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    loss: f64,
    duplicates: f64,
    delay: Duration,
    jitter: Duration,
}

struct Port {
    name: String,
    device: SyncDevice,
    side: AtomicU8,
}

#[derive(Default)]
struct Hub {
    ports: RwLock<Vec<Arc<Port>>>,
    faults: RwLock<Faults>,
    /// mDNS packets that a machine sent, and their bytes; each counts once, however many hear it.
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Copies that were lost on the way, as asked.
    lost: AtomicU64,
    late: Mutex<BinaryHeap<Reverse<Late>>>,
    is_late: Condvar,
}

/// A copy that is on its way.
struct Late {
    due: Instant,
    port: Arc<Port>,
    frame: Arc<[u8]>,
}

pub(crate) fn run() -> Result<(), Failure> {
    let hub = Arc::new(Hub::default());
    let postman = hub.clone();
    thread::spawn(move || postman.deliver_late());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["port", name, netns] => hub.add(name, netns)?,
            ["faults", loss, duplicates, delay, jitter] => {
                let faults = Faults {
                    loss: loss.parse::<f64>()? / 100.0,
                    duplicates: duplicates.parse::<f64>()? / 100.0,
                    delay: Duration::from_millis(delay.parse()?),
                    jitter: Duration::from_millis(jitter.parse()?),
                };
                *hub.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
                json!({})
            }
            ["side", name, side] => {
                let ports = hub.ports.read().unwrap_or_else(PoisonError::into_inner);
                let port = ports.iter().find(|port| port.name == name).ok_or("no such port")?;
                port.side.store(side.parse()?, Ordering::Relaxed);
                json!({})
            }
            ["count"] => hub.count(),
            _ => return Err(format!("no command: {line:?}").into()),
        };
        let mut answer = answer;
        answer["event"] = words[0].into();
        print(&answer);
    }
    Ok(())
}

impl Hub {
    fn add(self: &Arc<Self>, name: &str, netns: &str) -> Result<Value, Failure> {
        let device = DeviceBuilder::new().name(name).layer(Layer::L2).build_sync()?;
        let moved =
            Command::new("ip").args(["link", "set", name, "netns", netns, "name", "eth0"]).status()?;
        if !moved.success() {
            return Err(format!("{name} cannot be moved into {netns}").into());
        }
        let port = Arc::new(Port { name: name.into(), device, side: AtomicU8::new(0) });
        self.ports.write().unwrap_or_else(PoisonError::into_inner).push(port.clone());
        let hub = self.clone();
        thread::spawn(move || hub.forward_from(&port));
        Ok(json!({}))
    }

    fn forward_from(&self, from: &Arc<Port>) {
        let mut buffer = vec![0; 65_536];
        loop {
            let len = match from.device.recv(&mut buffer) {
                Ok(len) => len,
                // The interface is down; what it would send, it cannot.
                Err(_) if from.device.is_running().is_ok() => {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(_) => return,
            };
            self.forward(from, &buffer[..len]);
        }
    }

    fn forward(&self, from: &Arc<Port>, frame: &[u8]) {
        if is_mdns(frame) {
            self.packets.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
        let faults = *self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let side = from.side.load(Ordering::Relaxed);
        let shared: Arc<[u8]> = frame.into();
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        let others = ports.iter().filter(|port| !Arc::ptr_eq(port, from));
        for port in others.filter(|port| port.side.load(Ordering::Relaxed) == side) {
            let copies = 1 + u32::from(fastrand::f64() < faults.duplicates);
            for _ in 0..copies {
                if fastrand::f64() < faults.loss {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                } else if faults.delay.is_zero() {
                    // Refused where the other interface is down: lost, as on a real wire.
                    let _ = port.device.send(frame);
                } else {
                    let delay = faults.delay + faults.jitter.mul_f64(2.0 * fastrand::f64());
                    let due = Instant::now() + delay.saturating_sub(faults.jitter);
                    self.late().push(Reverse(Late { due, port: port.clone(), frame: shared.clone() }));
                    self.is_late.notify_one();
                }
            }
        }
    }

    fn deliver_late(&self) {
        let mut late = self.late();
        loop {
            let now = Instant::now();
            late = match late.peek() {
                Some(Reverse(next)) if next.due <= now => {
                    if let Some(Reverse(due)) = late.pop() {
                        let _ = due.port.device.send(&due.frame);
                    }
                    continue;
                }
                Some(Reverse(next)) => {
                    let wait = next.due - now;
                    self.is_late.wait_timeout(late, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.is_late.wait(late).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn late(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Late>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> Value {
        let [packets, bytes, lost] =
            [&self.packets, &self.bytes, &self.lost].map(|count| count.load(Ordering::Relaxed));
        json!({ "packets": packets, "bytes": bytes, "lost": lost })
    }
}

/// Whether an Ethernet frame holds IPv4 (type 0800) with UDP (protocol 17) to port 5353.
fn is_mdns(frame: &[u8]) -> bool {
    let header = |at: usize| frame.get(at).copied().unwrap_or_default();
    let udp = 14 + usize::from(header(14) & 15) * 4;
    frame.get(12..14) == Some(&[8, 0])
        && header(23) == 17
        && frame.get(udp + 2..udp + 4) == Some(&[0x14, 0xe9])
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Late {}
