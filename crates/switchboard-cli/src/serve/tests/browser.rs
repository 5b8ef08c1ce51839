//! A real browser without a window: Chromium, told what to do by <https://chromedevtools.github.io/devtools-protocol/>.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use super::LIMIT;

/// It speaks the protocol on its descriptors 3 and 4, where the shell puts our pipes.
const START: &str = r#"
for chromium in chromium-headless-shell chromium; do
    if command -v $chromium >/dev/null; then
        exec $chromium --headless --remote-debugging-pipe "$@" 3<&0 4>&1 0</dev/null 1>&2
    fi
done
exit 127"#;

const OPTIONS: [&str; 10] = [
    // Root in a container has no other way; the pages are ours.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    // The page brings all it needs: nothing else is to be had.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
    // Pictures of fewer colours are smaller.
    "--disable-lcd-text",
];

/// With one page open. Ended when it is dropped.
pub(super) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    number: u64,
    /// What the page has thrown, and what the browser found wrong with it.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = id {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Browser {
    pub(super) async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", START, "sh"])
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (session, complaints) = (None, Vec::new());
        let mut browser = Self { child, to, from, session, number: 0, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Performance"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Has it do something, and gives what comes of it.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let id = self.number;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        loop {
            let mut message = Vec::new();
            let read = timeout(LIMIT, self.from.read_until(0, &mut message)).await;
            assert!(read.expect(method).unwrap() > 0, "chromium has ended, or there is none");
            let mut message: Value = serde_json::from_slice(&message[..message.len() - 1]).unwrap();
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            if matches!(message["method"].as_str(), Some("Runtime.exceptionThrown" | "Log.entryAdded")) {
                self.complaints.push(message["params"].to_string());
            }
        }
    }

    /// What the page has thrown since it was last asked, and what the browser found wrong with it.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    pub(super) async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
    }

    /// What a piece of JavaScript says, or what it promises.
    pub(super) async fn eval(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut done = self.call("Runtime.evaluate", params).await;
        assert!(done.get("exceptionDetails").is_none(), "{script}: {done}");
        done["result"]["value"].take()
    }

    /// Waits until a piece of JavaScript says what is true.
    pub(super) async fn until(&mut self, script: &str) {
        let end = Instant::now() + LIMIT;
        let guarded = format!("try {{ Boolean({script}) }} catch {{ false }}");
        while self.eval(&guarded).await != true {
            if Instant::now() > end {
                let text = self.eval("document.body.innerText").await;
                panic!("never: {script}\n{}", text.as_str().unwrap_or_default());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this is shown in the element with this id.
    pub(super) async fn shows(&mut self, id: &str, text: &str) {
        self.until(&format!("document.getElementById({id:?}).innerText.includes({})", json!(text))).await;
    }

    /// Presses keys, each by its name: `a`, `/`, `Enter`, `ArrowDown`.
    pub(super) async fn press(&mut self, keys: &[&str]) {
        for key in keys {
            let text = match *key {
                "Enter" => "\r",
                key if key.chars().count() == 1 => key,
                _ => "",
            };
            let code = match *key {
                "Enter" => 13,
                "Escape" => 27,
                "Tab" => 9,
                _ => 0,
            };
            let down = json!({"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", down).await;
            let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", up).await;
        }
    }

    pub(super) async fn size(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// As a system set to `light` or `dark` has it.
    pub(super) async fn scheme(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    pub(super) async fn picture(&mut self, to: &Path) {
        let shot =
            self.call("Page.captureScreenshot", json!({"format": "png", "optimizeForSpeed": false})).await;
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
}
