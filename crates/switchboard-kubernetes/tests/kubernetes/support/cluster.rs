use std::path::{Path, PathBuf};
use std::process::{Command as Std, Stdio};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use switchboard_tests::etcd::Member;
use switchboard_tests::port::free_port;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

const ADMIN: &str = "admin-of-the-tests";

/// Ends a program when this process has gone, however that was, and otherwise when it is told to.
const GUARD: &str = r#""$@" & pid=$!; read -r _; kill -9 $pid; wait $pid"#;

/// An API server of its own, with its etcd.
pub(crate) struct Cluster {
    folder: TempDir,
    port: u16,
    etcd: Member,
    server: tokio::sync::Mutex<Option<Child>>,
}

fn guarded(program: impl AsRef<std::ffi::OsStr>, log: &Path) -> Command {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh"]).arg(program);
    command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

impl Cluster {
    /// One for all tests of this process that do not break it.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Member::alone().await;
        let tokens = format!("{ADMIN},admin,admin,\"system:masters\"\n");
        std::fs::write(folder.path().join("tokens.csv"), tokens).unwrap();
        let key = folder.path().join("sa.key");
        let made = Std::new("openssl").args(["genrsa", "-out"]).arg(&key).args(["2048"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let cluster = Self { folder, port: free_port(), etcd, server: tokio::sync::Mutex::default() };
        cluster.start_server().await;
        cluster
    }

    /// Starts the API server and waits until it is ready.
    pub(crate) async fn start_server(&self) {
        let binary = std::env::var("KUBE_APISERVER_BIN").unwrap_or_else(|_| "kube-apiserver".into());
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = guarded(binary, &self.folder.path().join("server.log"));
        command.args([
            format!("--etcd-servers=http://{}", self.etcd.address()),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", path("certificates")),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--token-auth-file={}", path("tokens.csv")),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            // No controller makes these policies known, and nothing here is slow enough to need them.
            "--enable-priority-and-fairness=false",
        ]);
        *self.server.lock().await = Some(command.spawn().unwrap());
        let up = async {
            loop {
                let ready = async {
                    let client = self.client(ADMIN).await.ok()?;
                    let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
                    client.request_text(request).await.ok()
                };
                if ready.await.is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), up).await.is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            panic!("the API server does not come up:\n{}", last.join("\n"));
        }
    }

    /// Kills the API server.
    pub(crate) async fn stop_server(&self) {
        let mut child = self.server.lock().await.take().unwrap();
        drop(child.stdin.take());
        child.wait().await.unwrap();
    }

    /// Has etcd forget its history.
    pub(crate) fn compact(&self) {
        let status = self.etcd.ctl("endpoint status --write-out fields");
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
        self.etcd.ctl(&format!("compact {revision} --physical"));
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whose certificates are the server's.
    pub(crate) fn ca(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("certificates/apiserver.crt")).unwrap()
    }

    /// A kubeconfig of somebody with this token, who speaks to the server at `address`.
    pub(crate) fn kubeconfig_at(&self, address: &str, token: &str) -> PathBuf {
        let mut name = String::new();
        for part in [address, token] {
            name.extend(part.chars().filter(char::is_ascii_alphanumeric).take(200));
            name.push('-');
        }
        name.truncate(120);
        let path = self.folder.path().join(format!("{name}{:08x}.kubeconfig", fastrand::u32(..)));
        let ca = self.folder.path().join("certificates/apiserver.crt");
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority": ca,
                "tls-server-name": "127.0.0.1",
            }}],
            "users": [{ "name": "u", "user": { "token": token }}],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" }}],
            "current-context": "x",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        self.kubeconfig_at(&self.address(), token)
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig(ADMIN)
    }

    pub(crate) fn admin_kubeconfig_at(&self, address: &str) -> PathBuf {
        self.kubeconfig_at(address, ADMIN)
    }

    pub(crate) async fn client(&self, token: &str) -> Result<Client, kube::Error> {
        let read = Kubeconfig::read_from(self.kubeconfig(token))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Client::try_from(config)
    }

    pub(crate) async fn admin(&self) -> Client {
        self.client(ADMIN).await.unwrap()
    }
}
