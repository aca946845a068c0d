//! Cached plans: the pipeline's decisions about exchanges of one kind.

use std::collections::HashMap;
use std::sync::Arc;

use budgateway_core::segment::LabelId;
use pyo3::prelude::*;

use crate::engine::sockets::{Idle, Transport};
use crate::head::RequestHeadWriter;
use crate::limits::{LimitSet, Price};
use crate::redact::Redactor;
use crate::select::Selector;

/// Maximum cached plans; beyond it, all are dropped.
pub(crate) const MAX_CACHED_PLANS: usize = 1024;

/// The decisions that hold for every exchange of one kind.
pub(super) struct CachedPlan {
    pub(super) route: LabelId,
    pub(super) provider: LabelId,
    pub(super) model_label: LabelId,
    /// The credential's expiry.
    pub(super) until_ns: i64,
    pub(super) max_body_bytes: usize,
    /// The time until an exchange's deadlines are near.
    pub(super) time_limit_ns: i64,
    /// True when the answer depends on the request's origin (CORS); such requests take the ordinary path.
    pub(super) by_origin: bool,
    pub(super) limits: Option<Py<LimitSet>>,
    pub(super) price: Option<Py<Price>>,
    pub(super) selector: Py<Selector>,
    /// A bit for each upstream that does not serve the model.
    pub(super) without: u64,
    pub(super) targets: Vec<Target>,
    pub(super) asker: Option<Asker>,
    /// The pipeline's own plan, for an exchange that has to continue there.
    pub(super) verified: Py<PyAny>,
}

/// The principal, where it is known.
pub(super) struct Asker {
    pub(super) principal: String,
    pub(super) user: String,
    pub(super) key: String,
    pub(super) tenant: String,
}

/// The identity stage's part of a plan: `CachedIdentity` of `budgateway.exchange.cached_plan`. The parts are read
/// attribute by attribute.
#[derive(FromPyObject)]
pub(super) struct IdentityPart {
    pub(super) credential: Option<Vec<u8>>,
    asker: Option<(String, String, String, String)>,
    verified: Py<PyAny>,
}

/// The router's part: `CachedRoute`.
#[derive(FromPyObject)]
pub(super) struct RoutePart {
    pub(super) place: usize,
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
}

/// The balancer's part: `CachedChoice`.
#[derive(FromPyObject)]
pub(super) struct ChoicePart {
    selector: Py<Selector>,
    left_out: u64,
    targets: Vec<TargetPart>,
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
    pub(super) fn new(
        identity: IdentityPart,
        route: RoutePart,
        limits: LimitsPart,
        choice: ChoicePart,
        until_ns: i64,
        slack_ns: i64,
    ) -> Self {
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
            until_ns,
            max_body_bytes: route.max_body_bytes,
            time_limit_ns: route.time_limit_ns - slack_ns,
            by_origin: route.by_origin,
            limits: limits.limits,
            price: limits.price,
            selector: choice.selector,
            without: choice.left_out,
            targets: choice.targets.into_iter().map(target).collect(),
            asker: identity.asker.map(|(principal, user, key, tenant)| Asker {
                principal,
                user,
                key,
                tenant,
            }),
            verified: identity.verified,
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

/// All cached plans, by route, credential and model.
#[derive(Default)]
pub(super) struct PlanCache {
    all: HashMap<Box<[u8]>, Arc<CachedPlan>>,
    /// A cache of one: most requests are of the same kind as the previous one.
    last: Option<(Box<[u8]>, Arc<CachedPlan>)>,
    key: Vec<u8>,
}

impl PlanCache {
    pub(super) fn insert(&mut self, route: usize, credential: Option<(u8, &[u8])>, model: &[u8], plan: CachedPlan) {
        if self.all.len() >= MAX_CACHED_PLANS {
            self.all.clear();
        }
        self.last = None;
        self.plan_key(route, credential, model);
        self.all.insert(self.key.as_slice().into(), Arc::new(plan));
    }

    pub(super) fn get(
        &mut self,
        route: usize,
        credential: Option<(u8, &[u8])>,
        model: &[u8],
    ) -> Option<Arc<CachedPlan>> {
        self.plan_key(route, credential, model);
        if let Some((key, plan)) = &self.last
            && **key == *self.key
        {
            return Some(plan.clone());
        }
        let (key, plan) = self.all.get_key_value(self.key.as_slice())?;
        self.last = Some((key.clone(), plan.clone()));
        Some(plan.clone())
    }

    /// Removes all plans and returns them, to be dropped when no lock is held.
    pub(super) fn clear(&mut self) -> Self {
        std::mem::take(self)
    }

    fn plan_key(&mut self, route: usize, credential: Option<(u8, &[u8])>, model: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(&(route as u32).to_le_bytes());
        // The credential's kind and length come first, so that no two pairs share a key; a missing credential is not an
        // empty one.
        let (kind, value) = credential.unwrap_or_default();
        self.key.push(kind);
        self.key.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.key.extend_from_slice(value);
        self.key.extend_from_slice(model);
    }
}
