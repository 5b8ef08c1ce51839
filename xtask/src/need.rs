//! What some tests need, and how to get it.

use std::path::Path;
use std::process::Stdio;

use crate::command::{command, succeeds};
use crate::netns::is_root;

/// Something beyond Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Root, and `ip` from iproute2.
    Namespaces,
    /// Avahi's daemon and tools, and a D-Bus daemon for them.
    Avahi,
    /// Python 3 that can make virtual environments; the tests install python-zeroconf into one of their own.
    Python,
    /// The Consul binary.
    Consul,
    /// A Consul of today, built once per machine.
    ConsulCurrent,
    /// dnsmasq, a name server that reads a file of hosts.
    Dnsmasq,
    /// BIND, a name server whose zones can be edited while it serves.
    Bind,
    /// The Go toolchain.
    Go,
    /// `nft`, to make a firewall.
    Nft,
    /// tmux, to be a terminal.
    Tmux,
    /// zsh and fish; bash is there.
    Shells,
    /// nginx, to be reloaded with what was rendered.
    Nginx,
    /// `haproxy`, likewise.
    Haproxy,
    /// etcd, and its own command.
    Etcd,
    /// Kubernetes' API server, built once per machine, and what it runs on.
    Kubernetes,
    /// A browser without a window, whichever of its two there is.
    Chromium,
    /// Prometheus' own tool, which finds targets as the server does.
    Prometheus,
    /// npm, with which a test fetches what checks pages.
    Npm,
    /// Wine, which runs programs for Windows.
    Wine,
    /// The linker for Windows, and the C compiler.
    Mingw,
}

impl Need {
    /// Makes sure it is there, installing it where the system lets us; or says how to get it.
    pub(crate) fn provide(self) -> Result<(), String> {
        match self {
            Self::Namespaces if !cfg!(target_os = "linux") => Err("network namespaces are Linux's".into()),
            Self::Namespaces if !is_root() => Err("making network namespaces takes root".into()),
            Self::Namespaces => installed("ip netns list", "iproute2"),
            Self::Avahi => installed("avahi-daemon --version", "avahi-daemon")
                .and_then(|()| installed("avahi-browse --version", "avahi-utils"))
                .and_then(|()| installed("dbus-daemon --version", "dbus")),
            Self::Python => installed("python3 -m ensurepip --version", "python3-venv"),
            Self::Consul => consul(),
            Self::ConsulCurrent => consul_current().map(drop),
            Self::Dnsmasq => installed("dnsmasq --version", "dnsmasq-base"),
            Self::Bind => installed("named -v", "bind9"),
            Self::Nft => installed("nft --version", "nftables"),
            Self::Tmux => installed("tmux -V", "tmux"),
            Self::Shells => {
                installed("zsh --version", "zsh").and_then(|()| installed("fish --version", "fish"))
            }
            Self::Nginx => installed("nginx -v", "nginx"),
            Self::Haproxy => installed("haproxy -v", "haproxy"),
            Self::Etcd => installed("etcd --version", "etcd-server")
                .and_then(|()| installed("etcdctl version", "etcd-client")),
            Self::Kubernetes => Self::Etcd
                .provide()
                .and_then(|()| installed("openssl version", "openssl"))
                .and_then(|()| kube_apiserver().map(drop)),
            Self::Chromium if succeeds("chromium --version") => Ok(()),
            Self::Chromium => installed("chromium-headless-shell --version", "chromium-headless-shell"),
            Self::Prometheus => installed("promtool --version", "prometheus"),
            Self::Npm if succeeds("npm --version") => Ok(()),
            Self::Npm => Err("npm is missing; get it from your package manager or nodejs.org".into()),
            Self::Wine => installed("wine --version", "wine wine64"),
            Self::Mingw => installed("x86_64-w64-mingw32-gcc --version", "gcc-mingw-w64-x86-64-posix"),
            Self::Go if succeeds("go version") => Ok(()),
            Self::Go => Err("the Go toolchain is missing; get it from your package manager or go.dev".into()),
        }
    }
}

fn consul() -> Result<(), String> {
    if succeeds("consul version") || std::env::var_os("CONSUL_BIN").is_some() {
        return Ok(());
    }
    let script = "scripts/install-consul.sh";
    match command(script).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("no Consul agent; {script} says above how to get one")),
        Err(error) => Err(format!("no Consul agent, and {script} did not start: {error}")),
    }
}

/// Where the Consul of today is, after building it if it is not there.
pub(crate) fn consul_current() -> Result<String, String> {
    built("Consul of today", "scripts/build-consul.sh")
}

/// Where Kubernetes' API server is, after building it if it is not there.
pub(crate) fn kube_apiserver() -> Result<String, String> {
    match std::env::var("KUBE_APISERVER_BIN") {
        Ok(path) if !path.is_empty() => Ok(path),
        _ => built("kube-apiserver", "scripts/build-kube-apiserver.sh"),
    }
}

/// Where a script says that it has built something.
fn built(what: &str, script: &str) -> Result<String, String> {
    let built = command(script).stderr(Stdio::inherit()).output();
    let built = built.map_err(|error| format!("no {what}, and {script} did not start: {error}"))?;
    if !built.status.success() {
        return Err(format!("no {what}; {script} says above why"));
    }
    Ok(String::from_utf8_lossy(&built.stdout).trim().to_owned())
}

/// Installs `package`, or several, with apt if `probe` does not succeed.
fn installed(probe: &str, package: &str) -> Result<(), String> {
    // Daemons live in directories that are not on every user's path.
    let found = |probe: &str| succeeds(probe) || succeeds(&format!("/usr/sbin/{probe}"));
    if found(probe) {
        return Ok(());
    }
    if is_root() && succeeds("apt-get --version") {
        println!("Installing {package}");
        apt_install(package);
        if found(probe) {
            return Ok(());
        }
    }
    Err(format!("{package} is missing; get it from your package manager"))
}

/// Installs without starting a service: the tests start their own, where nobody else hears them.
fn apt_install(package: &str) {
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists() && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok();
    if ours {
        succeeds("chmod 755 /usr/sbin/policy-rc.d");
    }
    let install = || {
        let line = format!("apt-get install --yes --quiet --no-install-recommends {package}");
        command(&line)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !install() {
        succeeds("apt-get update --quiet");
        install();
    }
    if ours {
        let _ = std::fs::remove_file(policy);
    }
}
