"""A LangChain pipeline, streamed; and structured output. LangChain talks to the server as to OpenAI's."""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, Field, SecretStr

url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
key = os.environ.get("OPENAI_API_KEY", "EMPTY")
name = OpenAI(base_url=url, api_key=key).models.list().data[0].id

model = ChatOpenAI(model=name, base_url=url, api_key=SecretStr(key), temperature=0, max_completion_tokens=48)
prompt = ChatPromptTemplate.from_messages([("system", "You are brief."), ("human", "What is {word}?")])
for piece in (prompt | model | StrOutputParser()).stream({"word": "a river"}):
    print(piece, end="", flush=True)
print()


class City(BaseModel):
    name: str = Field(max_length=30)
    is_a_capital: bool


city = model.with_structured_output(City, method="json_schema").invoke("Tell me of Paris, as JSON.")
print(repr(city))
