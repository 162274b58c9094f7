"""The HTTP interface: users, the shard of a user, and a page that shows both."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, StringConstraints, TypeAdapter
from service_kit import problems
from service_kit.cluster import Cluster
from service_kit.fields import Name
from service_kit.health import Health, answer

from citus_users.database import SHARD_OF_USER, Settings, User, Users, pool_of

MAX_USER_ID = 2**31 - 1
UserId = Annotated[int, Path(ge=1, le=MAX_USER_ID, description="A positive integer of 32 bits.")]
Email = Annotated[Name, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$")]


class UserCreate(BaseModel):
    """A user to create."""

    name: Name
    email: Email


class ShardOut(BaseModel):
    """The shard of a user. The user need not exist. ``sql`` gives the same answer in psql."""

    user_id: int
    shard_id: int
    shard_name: str
    hash_min: int
    hash_max: int
    node: str
    port: int
    sql: str


async def get_users(request: Request) -> Users:
    """Give the table of users; it is created by the first request that finds the coordinator."""
    table: Table = request.app.state.table
    return await table.get()


class Table:
    """The table of users, created once the coordinator answers."""

    def __init__(self, users: Users) -> None:
        self.users = users
        self._made = False

    async def get(self) -> Users:
        """Give the table, and create it before if this process has not yet looked."""
        if not self._made:
            await self.users.make()
            self._made = True
        return self.users


AnyUsers = Annotated[Users, Depends(get_users)]
_user = TypeAdapter(User)
_templates = Environment(loader=PackageLoader("citus_users"), autoescape=True, undefined=StrictUndefined)


def create_app(settings: Callable[[], Settings] = lambda: Settings.of(Cluster())) -> FastAPI:
    """Build the application; ``settings`` is asked when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with pool_of(settings()) as pool:
            app.state.table = Table(Users(pool))
            yield

    app = FastAPI(title="Users on Citus", version="0.1.0", lifespan=lifespan)
    problems.install(app)

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health(request: Request) -> JSONResponse:
        """200 while the coordinator answers."""
        silence = await request.app.state.table.users.silence()
        state = {"status": "down", "detail": silence} if silence else {"status": "ok"}
        return answer({"coordinator": state}, ("coordinator",))

    @app.get("/users/{user_id}", response_model=User)
    async def get_user(user_id: UserId, users: AnyUsers) -> Response:
        if (found := await users.get(user_id)) is None:
            raise HTTPException(404, f"There is no user {user_id}.")
        # Written at once: FastAPI would check again what the database has checked.
        return Response(_user.dump_json(found), media_type="application/json")

    @app.post("/users", status_code=201)
    async def create_user(user: UserCreate, users: AnyUsers, response: Response) -> User:
        created = await users.create(user.name, user.email)
        response.headers["Location"] = f"/users/{created.user_id}"
        return created

    @app.get("/users/{user_id}/shard")
    async def get_shard(user_id: UserId, users: AnyUsers) -> ShardOut:
        shard = await users.shard_of(user_id)
        if shard is None:
            raise problems.UnavailableError("The shard has no placement on a primary node.")
        return ShardOut(
            user_id=user_id,
            shard_id=shard.shardid,
            shard_name=f"users_{shard.shardid}",
            hash_min=int(shard.shardminvalue),
            hash_max=int(shard.shardmaxvalue),
            node=shard.nodename,
            port=shard.nodeport,
            sql=SHARD_OF_USER.format(user_id=user_id),
        )

    @app.get("/", response_class=HTMLResponse)
    async def page(users: AnyUsers) -> HTMLResponse:
        shards, moves = await users.shards(), await users.moves()
        nodes: dict[str, list[object]] = {}
        for one in shards:
            nodes.setdefault(f"{one.shard.nodename}:{one.shard.nodeport}", []).append(one)
        moving = any(move.progress != "moved" for move in moves)
        text = _templates.get_template("shards.html").render(nodes=sorted(nodes.items()), moves=moves, moving=moving)
        return HTMLResponse(text, headers={"Cache-Control": "no-store"})

    return app
