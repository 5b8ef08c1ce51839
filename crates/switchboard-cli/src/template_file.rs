//! Template files, which ask for the services they need.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use switchboard::{Instance, ServiceName, Snapshot};

use crate::bounded;
use crate::failure::Failure;
use crate::network::Network;
use crate::output::InstanceItem;
use crate::template;

/// What a template has asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) services: BTreeSet<ServiceName>,
    pub(crate) names: bool,
    /// Something of it has not been heard yet.
    unheard: bool,
}

/// What templates may ask for: what has been heard of it.
#[derive(Default)]
struct World {
    snapshots: Vec<Snapshot>,
    names: Option<BTreeSet<ServiceName>>,
    asked: Asked,
}

/// A template file, ready to be rendered.
pub(crate) struct TemplateFile {
    name: String,
    environment: Environment<'static>,
    world: Arc<Mutex<World>>,
}

impl TemplateFile {
    /// Reads it. Templates beside it can be included.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = || Failure::failed(format!("template {}", path.display()));
        let text = bounded::text(path).map_err(|error| failed().because(&error))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let world: Arc<Mutex<World>> = Arc::default();
        let mut environment = template::environment();
        // HAProxy, for one, takes no file that does not end with one.
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()
                .map_err(|error| failed().because(&error))?,
        );
        // As the template itself, they are read once.
        environment.set_auto_reload(false);
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        environment.set_loader(move |name| beside(&directory, name));
        environment.add_template_owned(name.clone(), text).map_err(|error| failed().because(&error))?;
        let of = world.clone();
        environment.add_function("instances", move |name: &str| instances(&of, name, |_| true));
        let of = world.clone();
        environment
            .add_function("service", move |name: &str| instances(&of, name, |one| one.health().is_healthy()));
        let of = world.clone();
        environment.add_function("services", move || services(&of));
        Ok(Self { name, environment, world })
    }

    /// The text; `None` while it asks for what has not been heard yet. And what it has asked for.
    pub(crate) fn render(&self, network: &Network<'_>) -> (Result<Option<String>, Error>, Asked) {
        {
            let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            world.snapshots = network.heard().cloned().collect();
            world.names = network.names().cloned();
            world.asked = Asked::default();
        }
        let template = self.environment.get_template(&self.name);
        let rendered = template.and_then(|template| template.render(()));
        let asked = std::mem::take(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner).asked);
        // What is wrong with an answer that nobody has given yet says nothing.
        let rendered = if asked.unheard { Ok(None) } else { rendered.map(Some) };
        (rendered, asked)
    }
}

/// The text of a template in this directory or below it, but for what is hidden.
fn beside(directory: &Path, name: &str) -> Result<Option<String>, Error> {
    let is_plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    if !Path::new(name).components().all(is_plain) {
        return Ok(None);
    }
    match bounded::text(&directory.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let why = format!("template {name:?} cannot be read: {error}");
            Err(Error::new(ErrorKind::InvalidOperation, why))
        }
    }
}

fn instances(world: &Mutex<World>, name: &str, wanted: impl Fn(&Instance) -> bool) -> Result<Value, Error> {
    let service = ServiceName::new(name)
        .map_err(|invalid| Error::new(ErrorKind::InvalidOperation, invalid.to_string()))?;
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    let found = world.snapshots.iter().find(|snapshot| *snapshot.service() == service);
    let list = found.map(|snapshot| {
        let chosen = snapshot.all().iter().filter(|instance| wanted(instance));
        chosen.map(|instance| Value::from(Serde(InstanceItem::from(&**instance)))).collect::<Vec<_>>()
    });
    world.asked.unheard |= list.is_none();
    world.asked.services.insert(service);
    Ok(list.unwrap_or_default().into())
}

fn services(world: &Mutex<World>) -> Vec<String> {
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    world.asked.names = true;
    world.asked.unheard |= world.names.is_none();
    world.names.iter().flatten().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use switchboard::{Health, MemoryRegistry, RegisterOptions, Registry as _};

    async fn rendered(registry: &MemoryRegistry, text: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.j2");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("part.j2"), "part").unwrap();
        std::fs::write(dir.path().join(".part.j2"), "part").unwrap();
        std::fs::write(dir.path().join("endless.j2"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let file = TemplateFile::open(&path).map_err(|failure| failure.to_string())?;
        let mut network = Network::none(registry);
        loop {
            let (rendered, asked) = file.render(&network);
            if let Some(text) = rendered.map_err(|error| crate::failure::chain(&error))? {
                return Ok(text);
            }
            if asked.names {
                network.listen_to_names();
            }
            network.follow_only(&asked.services);
            network.next().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_template_gets_what_it_asks_for() {
        let registry = MemoryRegistry::new();
        for (service, id, port) in [("web", "1", 1), ("web", "2", 2), ("api", "1", 3)] {
            let address = format!("[::1]:{port}");
            let one = Instance::builder(service).id(id).address(address.as_str()).metadata("zone", "a");
            let one = one.build().unwrap();
            registry.register(&one, &RegisterOptions::new()).await.unwrap();
            if id == "2" {
                registry.set_health(&one.key(), Health::Critical);
            }
        }
        for (text, expected) in [
            ("{% for i in service('web') %}{{ i.address }} {{ i.host }};{% endfor %}", "[::1]:1 [::1];"),
            ("{{ instances('web') | map(attribute='id') | join(',') }}", "1,2"),
            ("{% for s in services() %}{{ s }}={{ instances(s) | length }} {% endfor %}", "api=1 web=2 "),
            ("a line\n", "a line\n"),
            ("{% for i in service('none') %}{% else %}nobody{% endfor %}", "nobody"),
            (
                "{% include 'part.j2' %} {{ instances('web') | selectattr('health', 'eq', 'critical') | list | length }}",
                "part 1",
            ),
        ] {
            assert_eq!(rendered(&registry, text).await.as_deref(), Ok(expected));
        }
        for (text, expected) in [
            ("{{ instances('web')[0].zone }}", "`(...)[0].zone` is undefined (in t.j2:1)"),
            ("\n{{ service('') }}", "service name \"\": is empty (in t.j2:2)"),
            ("{% if", "syntax error"),
            ("{% include 'endless.j2' %}", "longer than 1 MiB, the limit"),
            ("{% include '../part.j2' %}", "template not found"),
            ("{% include '.part.j2' %}", "template not found"),
            ("{% include '/etc/passwd' %}", "template not found"),
        ] {
            let error = rendered(&registry, text).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
