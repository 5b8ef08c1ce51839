//! The same on etcd, and what doctor says of it.

use switchboard_tests::etcd::Member;
use tokio::runtime::Runtime;

use crate::support::{Running, Said, golden, run, switchboard, until, untimed};

fn with_member(test: impl FnOnce(&Member)) {
    let runtime = Runtime::new().unwrap();
    test(&runtime.block_on(Member::alone()));
}

fn url(member: &Member) -> String {
    format!("etcd://{}", member.address())
}

fn doctor(url: &str, arguments: &[&str]) -> Said {
    run(url, &[&["doctor", "--timeout", "5s"], arguments].concat())
}

#[test]
#[ignore = "needs etcd"]
fn what_is_registered_is_watched_listed_and_gone_after_sigterm() {
    with_member(|member| {
        let hello = ["register", "hello", "127.0.0.1:8080", "--id", "h1", "--version", "1.2.0"];
        let hello = Running::start(switchboard(&url(member), &hello));
        hello.line_with("registered hello/h1");
        assert!(member.ctl("get switchboard/hello/h1 --print-value-only").contains("127.0.0.1"));
        let watch = Running::start(switchboard(&url(member), &["watch", "hello"]));
        assert_eq!(untimed(&watch.line()), "+ hello/h1 at 127.0.0.1:8080 version 1.2.0 passing");
        hello.signal(rustix::process::Signal::TERM);
        assert_eq!(hello.end().0.code(), Some(0));
        assert_eq!(untimed(&watch.line()), "- hello/h1");
        assert_eq!(member.ctl("get --prefix --keys-only switchboard/").trim(), "");
    });
}

#[test]
#[ignore = "needs etcd"]
fn doctor_tells_members_leader_clock_alarms_and_rights() {
    with_member(|member| {
        let address = member.address();
        let name = format!("m{}", address.rsplit(':').next().unwrap());
        let said = doctor(&url(member), &[]);
        let version =
            said.out.split("etcd ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned();
        let size =
            said.out.split("database of ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        let database = format!("{version}, a database of {size} kB");
        golden(
            "doctor-etcd.txt",
            &said.out,
            &[(&address, "HOST:PORT"), (&name, "NAME"), (&database, "VERSION, a database of SIZE kB")],
        );

        // Another that is not there is no more than a warning.
        let said = doctor(&format!("etcd://{address},127.0.0.1:1"), &[]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("warning  member      127.0.0.1:1"), "{said:?}");
        assert_eq!(doctor("etcd://127.0.0.1:1", &[]).code, Some(1));

        for line in [
            "user add root:secret-root",
            "role add root",
            "user grant-role root root",
            "role add reads",
            "role grant-permission reads --prefix=true read switchboard/",
            "user add reader:secret-reader",
            "user grant-role reader reads",
            "auth enable",
        ] {
            member.ctl(line);
        }
        let said = doctor(&url(member), &[]);
        assert_eq!(said.code, Some(1));
        assert!(said.out.contains("ETCDCTL_USER"), "{said:?}");
        let as_reader = format!("{}?user=reader&password=secret-reader", url(member));
        let said = doctor(&as_reader, &["hello"]);
        assert!(
            said.out.contains("warning  rights      service \"hello\" can be found, not registered"),
            "{said:?}"
        );
        let elsewhere = format!("{}/private?user=reader&password=secret-reader", url(member));
        let refused = doctor(&elsewhere, &[]);
        assert_eq!(refused.code, Some(1));
        assert!(refused.out.contains("PROBLEM  rights      all services cannot be read"), "{refused:?}");
        assert!(!format!("{said:?}{refused:?}").contains("secret-"));
    });
}

#[test]
#[ignore = "needs etcd"]
fn doctor_tells_a_full_database() {
    let runtime = Runtime::new().unwrap();
    let member = runtime.block_on(Member::alone_with(&["--quota-backend-bytes", "1000000"]));
    let value = "x".repeat(300_000);
    for number in 0..10 {
        let mut put = std::process::Command::new("etcdctl");
        put.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", member.address()));
        let _ = put.args(["put", &format!("fill/{number}"), &value[..100_000]]).output();
    }
    let said = until(&url(&member), &["doctor"], |said| said.out.contains("NOSPACE"));
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("etcdctl alarm disarm"), "{said:?}");
    let refused = run(&url(&member), &["register", "hello", "127.0.0.1:8080", "--timeout", "5s"]);
    assert!(refused.err.contains("database space exceeded; make room"), "{refused:?}");
}
