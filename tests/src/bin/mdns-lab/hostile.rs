//! A machine that means harm.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use switchboard_tests::packet::{Packet, RecordType, name, srv, string};

use crate::Failure;

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);

/// Sends `count` packets, `rate` a second: bytes at random, responses that lie about themselves, instances of the type
/// `kind` that nobody runs, and questions for everything.
pub(crate) fn flood(kind: &str, count: u32, rate: u32) -> Result<(), Failure> {
    let socket = socket()?;
    let begun = Instant::now();
    for number in 0..count {
        // Now and then is enough to keep the rate.
        let due = begun + Duration::from_secs(1) * number / rate.max(1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let packet = match number % 4 {
            0 => Packet::default().raw(
                &std::iter::repeat_with(|| fastrand::u8(..))
                    .take(fastrand::usize(1..1400))
                    .collect::<Vec<_>>(),
            ),
            // A name that points to itself, and 65,535 answers of which there are none.
            1 => Packet::response(u16::MAX).raw(&[0xc0, 0x0c]).raw(&[0, 12, 0, 1, 0xff, 0xff]),
            2 => bogus(kind, number),
            _ => Packet::query(2)
                .question(&kind_name(kind), RecordType::Ptr)
                .question(&name(["_services", "_dns-sd", "_udp", "local"]), RecordType::Ptr),
        };
        // A full queue loses what it would.
        let _ = socket.send_to(packet.bytes(), GROUP);
    }
    Ok(())
}

/// Takes leave, three times over, in the name of instances `h1` to `hN` of the type `kind`.
pub(crate) fn forge(kind: &str, count: u32) -> Result<(), Failure> {
    let socket = socket()?;
    for _ in 0..3 {
        for number in 1..=count {
            let instance =
                name([&format!("h{number}")[..]].into_iter().chain(kind.split('.')).chain(["local"]));
            let packet = Packet::response(1).record(&kind_name(kind), RecordType::Ptr, 0, &instance);
            socket.send_to(packet.bytes(), GROUP)?;
        }
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn socket() -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353))?;
    socket.set_multicast_ttl_v4(255)?;
    Ok(socket)
}

fn kind_name(kind: &str) -> Vec<u8> {
    name(kind.split('.').chain(["local"]))
}

fn bogus(kind: &str, number: u32) -> Packet {
    let label = format!("bogus-{number}");
    let instance = name([&label[..]].into_iter().chain(kind.split('.')).chain(["local"]));
    let host = name([&label[..], "local"]);
    let txt = [string(b"service=other"), string(format!("id={label}").as_bytes())].concat();
    Packet::response(4)
        .record(&kind_name(kind), RecordType::Ptr, 4500, &instance)
        .record(&instance, RecordType::Srv, 120, &srv(80, &host))
        .record(&instance, RecordType::Txt, 4500, &txt)
        .record(&host, RecordType::A, 120, &[10, 0, 99, 99])
}
