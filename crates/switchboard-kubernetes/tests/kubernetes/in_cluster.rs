//! In a pod: the API server by its variables, a service account by its files, whose token is rotated.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::BoundObjectReference;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use switchboard_core::{Instance, RegisterOptions, Registry, Snapshot};
use switchboard_kubernetes::KubernetesRegistry;
use switchboard_tests::proxy::Proxy;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::readiness::{condition, gate, pod, until};
use crate::reading::{LONG, READY, orders};
use crate::rights::{binding, manifest};
use crate::support::{Space, endpoint, port, slice};

/// Tells the test that it is the program in the pod.
const INSIDE: &str = "SWITCHBOARD_TEST_IN_POD";

/// Mounts the account's files where a pod has them, for this program alone; `/var/run` is the machine's own again when it ends.
const MOUNT: &str = r#"set -e
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$1" /var/run/secrets/kubernetes.io/serviceaccount
shift
exec "$@""#;

/// Begins each line that the program in the pod says, among those of the test harness.
const SAYS: &str = "the pod says: ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs kubernetes and namespaces"]
async fn a_pod_reads_and_registers_by_its_service_account_whose_token_is_rotated() {
    if std::env::var_os(INSIDE).is_some() {
        return in_pod().await;
    }
    let space = Space::new().await;
    let put = async |pods: &[&str]| {
        let endpoints = pods.iter().zip(1..).map(|(pod, n)| endpoint(pod, &format!("10.1.0.{n}"), READY));
        space.put(&slice("orders-a", "orders", vec![port("http", 80)], endpoints.collect())).await;
    };
    put(&["p1"]).await;
    // Exactly the manifests of docs/kubernetes.md.
    space.apply(&manifest("orders-switchboard-read")).await;
    space.apply(&manifest("switchboard-readiness")).await;
    space.apply(&binding("switchboard-readiness")).await;
    let pods = pod(&space, "orders-1", gate()).await;

    // The first token can be revoked while the pod is there, the second is as a kubelet asks for it.
    let secrets: Api<Secret> = Api::namespaced(space.admin().await, &space.name);
    let secret: Secret = serde_json::from_value(serde_json::json!({ "metadata": { "name": "s" } })).unwrap();
    let secret = secrets.create(&PostParams::default(), &secret).await.unwrap();
    let first = space.token_of("orders", Some(bound("Secret", "s", secret.uid()))).await;
    let uid = pods.get("orders-1").await.unwrap().uid();
    let second = space.token_of("orders", Some(bound("Pod", "orders-1", uid))).await;

    let account = Account::new(&space, &first);
    let proxy = Proxy::to(space.cluster.address()).await;
    let mut program = Program::start(account.folder.path(), &proxy.address);
    assert_eq!(program.hears(|line| line.starts_with("watch")).await, "watch: uid-of-p1");
    assert_eq!(program.answer("lookup").await, "lookup: uid-of-p1");
    let who = format!("diagnose: system:serviceaccount:{0}:orders in {0}, all given", space.name);
    assert_eq!(program.answer("diagnose").await, who);
    assert_eq!(program.answer("register").await, "register: done");
    until(&pods, "orders-1", "True").await;

    account.rotate(&second);
    secrets.delete("s", &DeleteParams::default()).await.unwrap();
    until_unknown(&space, &first).await;
    // Nothing has ended the watch that was there.
    put(&["p1", "p2"]).await;
    assert_eq!(program.hears(|line| line.starts_with("watch")).await, "watch: uid-of-p1 uid-of-p2");
    // Whoever meets the refusal first, the next has the new token. Kube by itself reads the file once in 50 s.
    let met = program.answer("lookup").await;
    if met != "lookup: uid-of-p1 uid-of-p2" {
        assert!(met.contains("permission denied: the API server does not know these credentials"), "{met}");
        assert_eq!(program.answer("lookup").await, "lookup: uid-of-p1 uid-of-p2");
    }
    // A watch that begins anew does so with the new one.
    proxy.cut();
    program.hears(|line| line.starts_with("watch failed")).await;
    put(&["p1", "p2", "p3"]).await;
    proxy.mend();
    program.hears(|line| line == "watch: uid-of-p1 uid-of-p2 uid-of-p3").await;

    program.end().await;
    let last = condition(&pods, "orders-1").await.unwrap();
    assert_eq!((last.status.as_str(), last.reason.as_deref()), ("False", Some("Deregistered")));
}

fn bound(kind: &str, name: &str, uid: Option<String>) -> BoundObjectReference {
    BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        name: Some(name.into()),
        uid,
    }
}

/// Until the server does not take the token any longer; it remembers for some seconds what it took.
async fn until_unknown(space: &Space, token: &str) {
    let client = space.cluster.client(token).await.unwrap();
    let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> = Api::namespaced(client, &space.name);
    let unknown = async {
        loop {
            match slices.list(&ListParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 401 => return,
                _ => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    };
    timeout(LONG, unknown).await.unwrap();
}

/// A service account's files, as a kubelet keeps them: they lead to a folder that is swapped whole.
struct Account {
    folder: TempDir,
    ca: Vec<u8>,
    namespace: String,
}

impl Account {
    fn new(space: &Space, token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["token", "ca.crt", "namespace"] {
            symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
        }
        let account = Self { folder, ca: space.cluster.ca(), namespace: format!("{}\n", space.name) };
        account.rotate(token);
        account
    }

    fn rotate(&self, token: &str) {
        let folder = self.folder.path();
        let name = format!("..{:016x}", fastrand::u64(..));
        std::fs::create_dir(folder.join(&name)).unwrap();
        for (file, content) in
            [("token", token.as_bytes()), ("ca.crt", &self.ca), ("namespace", self.namespace.as_bytes())]
        {
            std::fs::write(folder.join(&name).join(file), content).unwrap();
        }
        let before = std::fs::read_link(folder.join("..data")).ok();
        symlink(&name, folder.join("..next")).unwrap();
        std::fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
        if let Some(before) = before {
            std::fs::remove_dir_all(folder.join(before)).unwrap();
        }
    }
}

/// The program in the pod, seen from outside.
struct Program {
    child: Child,
    tell: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(account: &Path, server: &str) -> Self {
        let (host, port) = server.split_once(':').unwrap();
        let test = "in_cluster::a_pod_reads_and_registers_by_its_service_account_whose_token_is_rotated";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", MOUNT, "sh"])
            .arg(account)
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env(INSIDE, "1")
            .envs([("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)])
            .env("POD_NAME", "orders-1")
            // Nobody's kubeconfig, who may run this.
            .env_remove("KUBECONFIG")
            .env("HOME", account)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { tell: child.stdin.take().unwrap(), child, said }
    }

    /// The next line for which this holds.
    async fn hears(&mut self, holds: impl Fn(&str) -> bool) -> String {
        let found = async {
            loop {
                let line = self.said.next_line().await.unwrap().expect("the program in the pod has ended");
                println!("{line}");
                if let Some(said) = line.strip_prefix(SAYS).filter(|said| holds(said)) {
                    return said.to_owned();
                }
            }
        };
        timeout(LONG, found).await.unwrap()
    }

    async fn answer(&mut self, order: &str) -> String {
        self.tell.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.hears(|line| line.starts_with(order)).await
    }

    /// Has it end by itself.
    async fn end(self) {
        let Self { mut child, tell, mut said } = self;
        drop(tell);
        let ended = async {
            while said.next_line().await.unwrap().is_some() {}
            child.wait().await.unwrap()
        };
        assert!(timeout(LONG, ended).await.unwrap().success());
    }
}

/// What runs in the pod, by orders on its standard input.
async fn in_pod() {
    let registry = KubernetesRegistry::from_url(&"kubernetes:?registration=readiness".parse().unwrap());
    let registry = registry.unwrap();
    let mut watch = registry.watch(&orders());
    let watching = tokio::spawn(async move {
        while let Some(item) = watch.next().await {
            match item {
                Ok(snapshot) => say(&format!("watch: {}", ids(&snapshot))),
                Err(error) => say(&format!("watch failed: {error}")),
            }
        }
    });
    let mut orders_given = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders_given.next_line().await.unwrap() {
        let done = match order.as_str() {
            "lookup" => registry.lookup(&orders()).await.map(|found| ids(&found)),
            "register" => {
                let instance = Instance::builder("orders").address("10.1.0.1:80").build().unwrap();
                registry.register(&instance, &RegisterOptions::new()).await.map(|()| "done".into())
            }
            "diagnose" => registry.diagnose(None).await.map(|found| {
                let lacking: Vec<_> = found
                    .permissions
                    .iter()
                    .filter(|right| !right.is_given)
                    .map(|right| &right.what)
                    .collect();
                let rights =
                    if lacking.is_empty() { "all given".into() } else { format!("{lacking:?} lack") };
                format!("{} in {}, {rights}", found.identity.unwrap_or_default(), found.namespace)
            }),
            _ => panic!("{order}"),
        };
        say(&format!("{order}: {}", done.unwrap_or_else(|error| error.to_string())));
    }
    registry.close().await.unwrap();
    watching.await.unwrap();
}

fn ids(snapshot: &Snapshot) -> String {
    let ids: Vec<&str> = snapshot.all().iter().map(|instance| instance.id().as_str()).collect();
    ids.join(" ")
}

fn say(line: &str) {
    // The harness may be in the middle of a line.
    println!("\n{SAYS}{line}");
}
