//! `pick`: which instances a client would get.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use switchboard::selector::{
    Balancer, ConsistentHash, Filter, LeastRequest, PeakEwma, Random, Request, RoundRobin, Selector,
    SelectorBuilder,
};
use switchboard::watcher::Directory;
use switchboard::{Instance, Registry, ServiceName};

use crate::args::{self, Choice, InstanceFilter, StrategyName};
use crate::failure::Failure;
use crate::output::{self, Listing, Look};
use crate::session::Session;

#[derive(Serialize)]
struct Row<'a> {
    service: &'a str,
    id: &'a str,
    address: String,
    picks: u32,
    share: f64,
}

pub(crate) async fn run(session: &Session, args: &args::Pick) -> Result<ExitCode, Failure> {
    let registry = session.connect().await?;
    let balancer = args.choice.balancer(session, registry, &args.service).await?;
    let mut request = Request::new();
    if let Some(key) = &args.choice.key {
        request = request.key(key);
    }
    let mut picks: BTreeMap<_, (Arc<Instance>, u32)> = BTreeMap::new();
    for _ in 0..args.count {
        let pick = balancer.pick_for(&request)?;
        let instance = pick.instance();
        picks.entry(instance.id().clone()).or_insert_with(|| (instance.clone(), 0)).1 += 1;
        pick.success();
    }
    let rows: Vec<Row<'_>> =
        picks.values().map(|(instance, picks)| row(instance, *picks, args.count)).collect();
    if session.json {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let heads: &[&str] =
        if args.count == 1 { &["ID", "ADDRESS"] } else { &["ID", "ADDRESS", "PICKS", "SHARE"] };
    let mut listing = Listing::new(heads);
    for row in rows {
        let mut cells = vec![
            row.id.to_owned(),
            row.address,
            row.picks.to_string(),
            format!("{:.1} %", row.share * 100.0),
        ];
        cells.truncate(heads.len());
        listing.row(Look::Plain, cells);
    }
    listing.print()?;
    Ok(ExitCode::SUCCESS)
}

fn row(instance: &Instance, picks: u32, of: u32) -> Row<'_> {
    Row {
        service: instance.service().as_str(),
        id: instance.id().as_str(),
        address: instance.address().to_string(),
        picks,
        share: f64::from(picks) / f64::from(of),
    }
}

impl Choice {
    /// A balancer that knows the instances of `service`.
    pub(crate) async fn balancer(
        &self,
        session: &Session,
        registry: Arc<dyn Registry>,
        service: &ServiceName,
    ) -> Result<Balancer, Failure> {
        let strategy = match (self.strategy, &self.key) {
            (Some(StrategyName::Hash), None) => {
                return Err(Failure::usage("--strategy hash needs a --key"));
            }
            (Some(other), Some(_)) if other != StrategyName::Hash => {
                return Err(Failure::usage("--key is for --strategy hash; the others ignore it"));
            }
            (Some(strategy), _) => strategy,
            (None, Some(_)) => StrategyName::Hash,
            (None, None) => StrategyName::Random,
        };
        let directory = Directory::builder(registry.clone()).ready_timeout(session.timeout).build();
        // A long-running client ramps new instances up; to this one all are new.
        let builder = Selector::builder(directory).without_slow_start();
        let selector = self.filter.selecting().fold(strategy.on(builder), SelectorBuilder::filter).build();
        let balancer = selector.service(service)?;
        // On mDNS a lookup listens longer for a service not heard of yet than a view does before it calls it absent.
        let found = session.limited("lookup", registry.lookup(service)).await?;
        let mut view = balancer.view().clone();
        let caught_up = async {
            while view.ready().await?.is_empty() && !found.is_empty() {
                view.changed().await;
            }
            balancer.ready().await
        };
        session.limited("watch", caught_up).await?;
        Ok(balancer)
    }
}

impl StrategyName {
    /// Picks by it.
    pub(crate) fn on(self, builder: SelectorBuilder) -> SelectorBuilder {
        match self {
            Self::Random => builder.strategy(Random),
            Self::RoundRobin => builder.strategy(RoundRobin),
            Self::LeastRequest => builder.strategy(LeastRequest),
            Self::PeakEwma => builder.strategy(PeakEwma),
            Self::Hash => builder.strategy(ConsistentHash),
        }
    }
}

impl InstanceFilter {
    /// The filters for a selector.
    pub(crate) fn selecting(&self) -> impl Iterator<Item = Filter> + '_ {
        let filters = self.version.iter().map(Filter::version);
        let filters = filters.chain(self.tag.iter().map(Filter::tag));
        filters.chain(self.meta.iter().map(|(key, value)| Filter::label(key, value)))
    }
}
