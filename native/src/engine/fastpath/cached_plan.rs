//! Cached plans: the pipeline's decisions about exchanges of one kind.

use std::collections::HashMap;
use std::sync::Arc;

use budgateway_core::clock_cache::ClockCache;
use budgateway_core::segment::LabelId;
use pyo3::prelude::*;

use crate::engine::sockets::{Idle, Transport};
use crate::head::RequestHeadWriter;
use crate::limits::{LimitSet, Price};
use crate::queue::Queue;
use crate::redact::Redactor;
use crate::select::Selector;
use crate::shape::Split;

/// Maximum cached plans; beyond it, one that is not in use makes room for a new one.
pub(crate) const MAX_CACHED_PLANS: usize = 4096;

/// The decisions that hold for every exchange of one kind.
pub(super) struct CachedPlan {
    pub(super) route: LabelId,
    pub(super) provider: LabelId,
    pub(super) model_label: LabelId,
    pub(super) max_body_bytes: usize,
    /// The time until an exchange's deadlines are near.
    pub(super) time_limit_ns: i64,
    /// True when the answer depends on the request's origin (CORS); such requests take the ordinary path.
    pub(super) by_origin: bool,
    pub(super) limits: Option<Py<LimitSet>>,
    pub(super) price: Option<Py<Price>>,
    /// Money is counted.
    pub(super) spends: bool,
    /// Exchanges in flight are counted.
    pub(super) has_lease: bool,
    /// The upstream's name of the model, as JSON, where it differs from the client's.
    pub(super) told: Option<Box<[u8]>>,
    pub(super) selector: Py<Selector>,
    /// A bit for each upstream that does not serve the model.
    pub(super) without: u64,
    pub(super) targets: Vec<Target>,
    /// The queue for them, where they have a limit in flight, and the callback that gives a freed slot to it.
    pub(super) queue: Option<(Py<Queue>, Py<PyAny>)>,
}

/// The choice of a destination among those of one route, and what pins a client to an upstream.
pub(super) struct RouteShape {
    pub(super) pin: Option<PinBy>,
    pub(super) split: Option<Py<Split>>,
    /// A header and its value ("": any) that choose the last destination.
    pub(super) canary: Option<(String, String)>,
    pub(super) destinations: Vec<DestinationPart>,
}

/// The origin of a pin.
pub(super) enum PinBy {
    Header(String),
    /// The body's `user`.
    User,
    /// The limits' subject: the principal, or the client's network.
    Key,
}

/// The shape's part: `CachedShape`.
#[derive(FromPyObject)]
pub(super) struct ShapePart {
    pin_kind: String,
    pin_header: String,
    split: Option<Py<Split>>,
    canary: Option<(String, String)>,
    destinations: Vec<DestinationPart>,
}

/// A destination: `CachedDestination`.
#[derive(FromPyObject)]
pub(super) struct DestinationPart {
    pub(super) selector: Py<Selector>,
    pub(super) queue: Option<Py<Queue>>,
}

impl RouteShape {
    pub(super) fn new(part: ShapePart) -> Self {
        let pin = match part.pin_kind.as_str() {
            "header" => Some(PinBy::Header(part.pin_header)),
            "user" => Some(PinBy::User),
            "key" => Some(PinBy::Key),
            _ => None,
        };
        Self {
            pin,
            split: part.split,
            canary: part.canary,
            destinations: part.destinations,
        }
    }
}

impl DestinationPart {
    pub(super) fn is_available(&self, now_ns: u64) -> bool {
        self.selector.get().inner.is_available(now_ns)
    }

    /// True when an exchange would not have to wait.
    pub(super) fn has_room(&self, now_ns: u64) -> bool {
        self.queue
            .as_ref()
            .is_none_or(|queue| !queue.get().is_wanted() && self.selector.get().inner.has_room(now_ns))
    }
}

/// The identity stage's part of a plan: `CachedIdentity` of `budgateway.exchange.cached_plan`. The parts are read
/// attribute by attribute.
#[derive(FromPyObject)]
pub(super) struct IdentityPart {
    pub(super) principal_class: u32,
}

/// The router's part: `CachedRoute`.
#[derive(FromPyObject)]
pub(super) struct RoutePart {
    pub(super) place: usize,
    /// The index of its destination.
    pub(super) destination: usize,
    pub(super) dialect: usize,
    pub(super) path: Vec<u8>,
    labels: (u32, u32, u32),
    max_body_bytes: usize,
    time_limit_ns: i64,
    lines: Vec<u8>,
    by_origin: bool,
}

/// The limits' part: `CachedLimits`.
#[derive(FromPyObject)]
pub(super) struct LimitsPart {
    limits: Option<Py<LimitSet>>,
    price: Option<Py<Price>>,
    spends: bool,
    has_lease: bool,
}

/// The adapter's part: `CachedBody`.
#[derive(FromPyObject)]
pub(super) struct BodyPart {
    told: Option<Vec<u8>>,
}

/// The balancer's part: `CachedChoice`.
#[derive(FromPyObject)]
pub(super) struct ChoicePart {
    selector: Py<Selector>,
    left_out: u64,
    targets: Vec<TargetPart>,
    queue: Option<Py<Queue>>,
    serve: Option<Py<PyAny>>,
}

/// A target of the choice: `budgateway.transport.client_cy.Target`.
#[derive(FromPyObject)]
struct TargetPart {
    pool: PoolPart,
    writer: Py<RequestHeadWriter>,
    label: String,
    disclosure: Vec<u8>,
    redactor: Option<Py<Redactor>>,
}

/// Its pool.
#[derive(FromPyObject)]
struct PoolPart {
    idle: Py<Idle>,
}

impl CachedPlan {
    /// Joins the stages' parts. `slack_ns` is the time before an exchange's deadline at which the relay must have it.
    pub(super) fn new(route: RoutePart, limits: LimitsPart, body: BodyPart, choice: ChoicePart, slack_ns: i64) -> Self {
        let target = |part: TargetPart| Target {
            idle: part.pool.idle,
            writer: part.writer,
            label: part.label,
            discloses: !part.disclosure.is_empty(),
            lines: [part.disclosure, route.lines.clone()].concat(),
            redactor: part.redactor,
        };
        Self {
            route: LabelId::new(route.labels.0),
            provider: LabelId::new(route.labels.1),
            model_label: LabelId::new(route.labels.2),
            max_body_bytes: route.max_body_bytes,
            time_limit_ns: route.time_limit_ns - slack_ns,
            by_origin: route.by_origin,
            limits: limits.limits,
            price: limits.price,
            spends: limits.spends,
            has_lease: limits.has_lease,
            told: body.told.map(Into::into),
            selector: choice.selector,
            without: choice.left_out,
            targets: choice.targets.into_iter().map(target).collect(),
            queue: choice.queue.zip(choice.serve),
        }
    }
}

/// An upstream.
pub(super) struct Target {
    pub(super) idle: Py<Idle>,
    pub(super) writer: Py<RequestHeadWriter>,
    pub(super) label: String,
    /// Header lines of its answers.
    pub(super) lines: Vec<u8>,
    /// True when its answers disclose attempts and overhead.
    pub(super) discloses: bool,
    /// Finds secrets that clients must not see.
    pub(super) redactor: Option<Py<Redactor>>,
}

/// A connection lent to one exchange.
pub(super) struct Lent {
    pub(super) connection: Py<PyAny>,
    pub(super) transport: Py<Transport>,
}

impl Target {
    /// An idle connection, when its transport is one of ours.
    pub(super) fn lend(&self, now_ns: i64) -> Option<Lent> {
        let idle = self.idle.get();
        let waiting = idle.take(now_ns)?;
        match waiting.transport {
            Some(transport) => Some(Lent {
                connection: waiting.connection,
                transport,
            }),
            None => {
                idle.put(waiting);
                None
            }
        }
    }
}

/// All cached plans, by route, destination, dialect, class of principals and model; and the shapes of routes.
pub(super) struct PlanCache {
    all: ClockCache<Box<[u8]>, Arc<CachedPlan>>,
    /// A cache of one: most requests are of the same kind as the previous one.
    last: Option<(Box<[u8]>, Arc<CachedPlan>)>,
    key: Vec<u8>,
    shapes: HashMap<usize, Arc<RouteShape>>,
}

/// A plan's key.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) route: usize,
    /// The index of the route's destination.
    pub(super) destination: usize,
    /// The client's dialect.
    pub(super) dialect: usize,
    /// The path, where there is no dialect: nothing else says what such a request is about.
    pub(super) path: &'a [u8],
    pub(super) principal_class: u32,
    pub(super) model: &'a [u8],
}

impl Default for PlanCache {
    fn default() -> Self {
        Self {
            all: ClockCache::new(MAX_CACHED_PLANS),
            last: None,
            key: Vec::new(),
            shapes: HashMap::new(),
        }
    }
}

impl PlanCache {
    /// Caches a plan. Returns what it replaces, to be dropped when no lock is held.
    pub(super) fn insert(&mut self, kind: Kind<'_>, plan: CachedPlan) -> [Option<Arc<CachedPlan>>; 2] {
        self.plan_key(kind);
        let last = self.last.take().map(|(_, plan)| plan);
        [last, self.all.insert(self.key.as_slice().into(), Arc::new(plan))]
    }

    pub(super) fn get(&mut self, kind: Kind<'_>) -> Option<Arc<CachedPlan>> {
        self.plan_key(kind);
        if let Some((key, plan)) = &self.last
            && **key == *self.key
        {
            return Some(plan.clone());
        }
        let plan = self.all.get(self.key.as_slice())?.clone();
        match &mut self.last {
            // The key's memory is used again when it is of the same length, as those of one model's classes are.
            Some((key, last)) if key.len() == self.key.len() => {
                key.copy_from_slice(&self.key);
                *last = plan.clone();
            }
            last => *last = Some((self.key.as_slice().into(), plan.clone())),
        }
        Some(plan)
    }

    pub(super) fn contains(&mut self, kind: Kind<'_>) -> bool {
        self.plan_key(kind);
        self.all.contains(self.key.as_slice())
    }

    /// Sets the shape of a route; it stays the same as long as the route does.
    pub(super) fn shape(&mut self, route: usize, shape: impl FnOnce() -> RouteShape) {
        self.shapes.entry(route).or_insert_with(|| Arc::new(shape()));
    }

    pub(super) fn shape_of(&self, route: usize) -> Option<Arc<RouteShape>> {
        self.shapes.get(&route).cloned()
    }

    /// Removes all plans and returns them, to be dropped when no lock is held.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::take(self)
    }

    fn plan_key(&mut self, kind: Kind<'_>) {
        self.key.clear();
        self.key.extend_from_slice(&(kind.route as u32).to_le_bytes());
        self.key.extend_from_slice(&(kind.destination as u32).to_le_bytes());
        self.key.push(kind.dialect as u8);
        self.key.extend_from_slice(&kind.principal_class.to_le_bytes());
        self.key.extend_from_slice(&(kind.path.len() as u32).to_le_bytes());
        self.key.extend_from_slice(kind.path);
        self.key.extend_from_slice(kind.model);
    }
}
