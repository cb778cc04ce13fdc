//! A serving gateway: the real binary on free ports, its logs, its metrics, and calls to it.

use super::client::Client;
use super::client_http2::Http2Client;
use super::config::Config;
use super::metrics;
use super::process::Process;
use super::request::Request;
use super::response::Response;
use super::{eventually, within};
use serde_json::Value;
use std::net::SocketAddr;
use tempfile::TempDir;

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    /// The data plane.
    pub(crate) data: SocketAddr,
    /// The admin plane.
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// Starts `cirque run -c gateway.yaml` and waits until it serves.
    pub(crate) async fn start(config: &Config) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        Self::start_in(folder, config).await
    }

    /// The same in a folder that already holds other files.
    pub(crate) async fn start_in(folder: TempDir, config: &Config) -> Self {
        std::fs::write(folder.path().join("gateway.yaml"), config.text()).expect("a folder");
        Self::launch(&["run", "-c", "gateway.yaml"], &[], folder).await
    }

    /// Starts any command that serves, and waits until it does.
    pub(crate) async fn launch(args: &[&str], env: &[(&str, &str)], folder: TempDir) -> Self {
        let process = Process::start(args, env, folder);
        let data = listening(&process, "data").await;
        let admin = listening(&process, "admin").await;
        Self { process, data, admin }
    }

    /// A new HTTP/1.1 connection to the data plane.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.data).await
    }

    /// A new HTTP/2 connection to the data plane, without TLS.
    pub(crate) async fn http2(&self) -> Http2Client {
        Http2Client::connect(self.data).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn call(&self, request: &Request) -> Response {
        self.client().await.call(request).await
    }

    /// A POST of JSON by the usual caller.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.call(&Request::post(path, body)).await
    }

    /// A GET by the usual caller.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.call(&Request::get(path)).await
    }

    /// A GET on the admin plane.
    pub(crate) async fn admin_get(&self, path: &str) -> Response {
        self.admin_call("GET", path).await
    }

    /// Any request on the admin plane, which asks for no key.
    pub(crate) async fn admin_call(&self, method: &str, path: &str) -> Response {
        let request = Request::new(method, path).anonymous();
        Client::connect(self.admin).await.call(&request).await
    }

    /// `/status` as the usual caller sees it.
    pub(crate) async fn status(&self) -> Value {
        self.get("/status").await.assert_ok().json()
    }

    /// What the usual caller has used of its budget, in dollars.
    pub(crate) async fn used_usd(&self) -> f64 {
        self.status().await["you"]["budget"]["used_usd"].as_f64().expect("a figure")
    }

    /// Waits until it has used so much, to the last digit.
    pub(crate) async fn used_becomes(&self, usd: f64) {
        eventually(&format!("{usd} $ used"), || async {
            ((self.used_usd().await - usd).abs() < 1e-9).then_some(())
        })
        .await;
    }

    /// The exposition of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        self.admin_get("/metrics").await.assert_ok().text()
    }

    /// The sum over the series of this name with these labels; `None` without any.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metrics::total(&self.metrics().await, name, labels)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} = {value}");
        eventually(&what, || async {
            let now = self.metric(name, labels).await?;
            ((now - value).abs() < 1e-9).then_some(())
        })
        .await;
    }

    /// The access log so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.process.stdout.json()
    }

    /// The first access log line that `wanted` accepts, once it is there.
    pub(crate) async fn log_where(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.stdout.json_where("a line of the access log", wanted).await
    }

    /// The access log line of this reply.
    pub(crate) async fn log_of(&self, response: &Response) -> Value {
        self.process.stdout.json_with(&response.request_id()).await
    }

    /// Waits until the catalogue lists this model.
    pub(crate) async fn lists(&self, model: &str) {
        eventually(&format!("{model} in /v1/models"), || async {
            let list = self.get("/v1/models").await;
            (list.status == 200 && ids(&list.json()).contains(&model.to_owned())).then_some(())
        })
        .await;
    }

    /// Replaces the configuration file.
    pub(crate) fn rewrite(&self, text: &str) {
        let (new, path) =
            (self.process.path("gateway.yaml.new"), self.process.path("gateway.yaml"));
        std::fs::write(&new, text).expect("a writable folder");
        std::fs::rename(new, path).expect("a writable folder");
    }
}

/// The ids of a model list.
pub(crate) fn ids(list: &Value) -> Vec<String> {
    let items = list["data"].as_array().unwrap_or_else(|| panic!("no data: {list}"));
    items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

/// Where a plane listens, as the process says once it serves.
async fn listening(process: &Process, plane: &str) -> SocketAddr {
    let said = |line: &Value| line["message"] == "listening" && line["plane"] == plane;
    let line = within(&format!("the {plane} plane"), async {
        tokio::select! {
            line = process.stderr.json_where("a listening line", said) => line,
            code = process.exit_code() => {
                process.stderr.ended().await;
                panic!("exit code {code}:\n{}", process.output())
            }
        }
    })
    .await;
    let address = line["address"].as_str().expect("an address").parse::<SocketAddr>();
    let mut address = address.expect("an address with a port");
    if address.ip().is_unspecified() {
        address.set_ip("127.0.0.1".parse().expect("an address"));
    }
    address
}
